"""A GPU through the CUDA driver API: context, memory, streams, arrays, launches.

Imports `kernels`, `names`, `arrays`; `compile` only when something is compiled.
"""

from nnkit.device.cuda.device import CudaDevice

__all__ = ["CudaDevice"]
