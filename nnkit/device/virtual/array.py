"""An array of the device `virtual`: a NumPy array on memory that kernels may access."""

import weakref
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from nnkit.device.bound import Bound
from nnkit.device.host.array import HostMemory
from nnkit.vm.run.memory_table import Allocation, MemoryTable

if TYPE_CHECKING:
    from nnkit.device.virtual import VirtualDevice


class VirtualArray(HostMemory, Bound):
    """`nnkit.contracts.DeviceArray` and `HostArray`: row-major, contiguous; a view keeps the memory alive."""

    __slots__ = ("__weakref__", "_address", "_owner", "device")
    instead = "array.download() is NumPy's, array.copy() one more on the device"

    def __init__(self, device: "VirtualDevice", host: npt.NDArray[Any], owner: "Owner | OfModule"):
        super().__init__(host)
        self.device = device
        self._owner = owner
        # Found when it is first asked for: NumPy takes its time to tell, and launches ask again and again.
        self._address = -1

    @property
    def address(self) -> int:
        """The address of the first element; raises DeviceError once the device is closed."""
        if self.device.closed:
            self.device.check_open()
        if self._address < 0:
            self._address = self.host.ctypes.data if self.host.size else self._owner.allocation.start
        return self._address

    def copy(self) -> "VirtualArray":
        """A new array with the same content."""
        twin = self.device.empty(self.shape, self.dtype)
        twin.host[...] = self.host
        return twin

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """NumPy sees the memory itself: `np.asarray(array)` is no copy."""
        return dict(self.host.__array_interface__)

    def _on(self, host: npt.NDArray[Any]) -> "VirtualArray":
        return VirtualArray(self.device, host, self._owner)

    def _check_open(self) -> None:
        self.device.check_open()


class OfModule:
    """The memory of a module's variable, which lives as long as the module."""

    __slots__ = ("allocation", "module")

    def __init__(self, allocation: Allocation, module: Any):
        self.allocation = allocation
        self.module = module


class Owner:
    """Frees an allocation when the last array on it is gone."""

    __slots__ = ("__weakref__", "allocation")

    def __init__(self, memory: MemoryTable, allocation: Allocation):
        self.allocation = allocation
        weakref.finalize(self, memory.free, allocation)
