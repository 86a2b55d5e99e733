"""CUDA C++ to PTX and machine code: NVRTC, what its messages mean, what a compiled kernel uses.

Imports `names`, `source`, `cpp`, `arrays`, `cache`; it knows no device and no launch.
"""

from nnkit.device.compile.compiler import Origin, compile_cuda, read_source

__all__ = ["Origin", "compile_cuda", "read_source"]
