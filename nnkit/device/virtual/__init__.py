"""Kernels run on the CPU: the device on top of the PTX machine `nnkit.vm`.

Imports `kernels`, `source`, `names`, `host`, `arrays`; `compile` only when something is compiled.
"""

from nnkit.device.virtual.array import VirtualArray
from nnkit.device.virtual.device import ARCH, VirtualDevice, VirtualKernel, VirtualModule

__all__ = ["ARCH", "VirtualArray", "VirtualDevice", "VirtualKernel", "VirtualModule"]
