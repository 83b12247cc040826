"""jaxquant: the operations of refquant, jit-compiled for CPU, GPU and TPU, equal bit for bit."""
