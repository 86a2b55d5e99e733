"""What a kernel takes: its parameters, arguments that fit, extents of a launch, variables of its module.

The same for all devices that run kernels. Imports `names`, `arrays`, `cache`; `nnkit.ptx`, which reads PTX;
and what the PTX machine knows of pointers.
"""
