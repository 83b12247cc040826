"""refquant: what the right bits of neural-network quantization are, in readable NumPy."""
