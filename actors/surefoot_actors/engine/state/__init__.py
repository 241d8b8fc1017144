"""The tracked state: which tensors and plain values it consists of, how it is put back, and how two copies of it are compared."""
