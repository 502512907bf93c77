"""Videos in, batches of uint8 clips out; imports no JAX."""
