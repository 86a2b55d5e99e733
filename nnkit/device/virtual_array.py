"""An array of the device `virtual`: a NumPy array on memory that kernels may access."""

import weakref
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from nnkit.device.array import Lookable, as_numpy, row_range, viewed_shape, viewed_type
from nnkit.device.inputs import values_for
from nnkit.errors import UsageError
from nnkit.vm.run.memory_table import Allocation, MemoryTable

if TYPE_CHECKING:
    from nnkit.device.virtual import VirtualDevice


class VirtualArray(Lookable):
    """`nnkit.contracts.DeviceArray` and `HostArray`: row-major, contiguous; a view keeps the memory alive."""

    __slots__ = ("__weakref__", "_address", "_owner", "device", "dtype", "host")

    def __init__(self, device: "VirtualDevice", host: npt.NDArray[Any], owner: "Owner | OfModule"):
        self.device = device
        self.host = host
        self.dtype = host.dtype
        """The type of an element."""
        self._owner = owner
        # Found when it is first asked for: NumPy takes its time to tell, and launches ask again and again.
        self._address = -1

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of every axis."""
        return self.host.shape

    @property
    def nbytes(self) -> int:
        """The size in bytes."""
        return self.host.nbytes

    @property
    def address(self) -> int:
        """The address of the first element; raises DeviceError once the device is closed."""
        if self.device.closed:
            self.device.check_open()
        if self._address < 0:
            self._address = self.host.ctypes.data if self.host.size else self._owner.allocation.start
        return self._address

    def rows(self, start: int, stop: int) -> "VirtualArray":
        """A view of rows start to stop, counted and clipped as in a slice."""
        first, end = row_range(self, start, stop)
        return VirtualArray(self.device, self.host[first:end], self._owner)

    def reshape(self, shape: tuple[int, ...]) -> "VirtualArray":
        """A view with another shape; raises UsageError if the numbers of elements differ."""
        return VirtualArray(self.device, self.host.reshape(viewed_shape(self, shape)), self._owner)

    def view(self, dtype: npt.DTypeLike) -> "VirtualArray":
        """The same bytes as another type; raises UsageError where the last axis does not fit."""
        shape, element = viewed_type(self, dtype)
        return VirtualArray(self.device, self.host.view(element).reshape(shape), self._owner)

    def copy(self) -> "VirtualArray":
        """A new array with the same content."""
        twin = self.device.empty(self.shape, self.dtype)
        twin.host[...] = self.host
        return twin

    def download(self) -> npt.NDArray[Any]:
        """A copy in memory of NumPy's own."""
        self.device.check_open()
        return self.host.copy()

    def write(self, host: npt.ArrayLike) -> None:
        """Overwrite with values of the same shape and dtype; raises UsageError for others."""
        values = values_for(self, host)
        self.device.check_open()
        if not self.host.flags.writeable:
            raise UsageError("the array's memory was lent to be read: write to a copy, array.copy()")
        self.host[...] = values

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """NumPy sees the memory itself: `np.asarray(array)` is no copy."""
        return dict(self.host.__array_interface__)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """The memory itself where NumPy asks for no other dtype and no copy."""
        return as_numpy(self.host, dtype, copy)

    def __dlpack__(self, **wishes: Any) -> Any:
        """A DLPack capsule of the memory itself."""
        return self.host.__dlpack__(**wishes)

    def __dlpack_device__(self) -> tuple[int, int]:
        """DLPack's name of host memory."""
        return self.host.__dlpack_device__()

    def __repr__(self) -> str:
        return f"VirtualArray(shape={self.shape}, dtype={self.dtype})"


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
