"""What the devices share whose work is done when a call returns, `cpu` and `virtual`.

Imports `arrays`.
"""
