"""What a kernel takes: its parameters, arguments that fit, extents of a launch, variables of its module.

The same for all devices that run kernels. Imports `names`, `host`, `arrays`, `cache`; `nnkit.ptx`;
and what the PTX machine knows of pointers.
"""
