"""Small Flax definitions that open a folder with config.json and safetensors.  Importing this imports nothing else."""
