"""Arrays in host memory: what those of the devices `cpu` and `virtual` share, and that of `cpu`."""

from abc import abstractmethod
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from nnkit.device.arrays.array import Lookable, row_range, viewed_shape, viewed_type
from nnkit.device.arrays.inputs import values_for
from nnkit.errors import UsageError


class HostMemory(Lookable):
    """An array that is a NumPy array underneath, `host`: NumPy and DLPack share its memory."""

    __slots__ = ("dtype", "host")

    def __init__(self, host: npt.NDArray[Any]):
        self.host = host
        self.dtype = host.dtype
        """The type of an element."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of every axis."""
        return self.host.shape

    @property
    def nbytes(self) -> int:
        """The size in bytes."""
        return self.host.nbytes

    @abstractmethod
    def copy(self) -> Self:
        """A new array with the same content."""

    @abstractmethod
    def _on(self, host: npt.NDArray[Any]) -> Self:
        """An array of this one's kind on a part of its memory, which it keeps alive."""

    def _check_open(self) -> None:
        """Raises DeviceError where the memory's device is closed."""

    def download(self) -> npt.NDArray[Any]:
        """A copy in memory of NumPy's own."""
        self._check_open()
        return self.host.copy()

    def write(self, host: npt.ArrayLike) -> None:
        """Overwrite with values of the same shape and dtype; raises UsageError for others."""
        values = values_for(self, host)
        self._check_open()
        if not self.host.flags.writeable:
            raise UsageError("the array's memory was lent to be read: write to a copy, array.copy()")
        self.host[...] = values

    def rows(self, start: int, stop: int) -> Self:
        """A view of rows start to stop, counted and clipped as in a slice."""
        first, end = row_range(self, start, stop)
        return self._on(self.host[first:end])

    def reshape(self, shape: int | tuple[int, ...]) -> Self:
        """A view with another shape; raises UsageError if the numbers of elements differ."""
        return self._on(self.host.reshape(viewed_shape(self, shape)))

    def view(self, dtype: npt.DTypeLike) -> Self:
        """The same bytes as another type; raises UsageError where the last axis does not fit."""
        shape, element = viewed_type(self, dtype)
        return self._on(self.host.view(element).reshape(shape))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """The memory itself where NumPy asks for no other dtype and no copy, as in NumPy 2.

        Raises ValueError, as NumPy wants it, where a copy is needed but forbidden.
        """
        return np.array(self.host, dtype=dtype, copy=copy, subok=True)

    def __dlpack__(self, **wishes: Any) -> Any:
        """A DLPack capsule of the memory itself."""
        return self.host.__dlpack__(**wishes)

    def __dlpack_device__(self) -> tuple[int, int]:
        """DLPack's name of host memory."""
        return self.host.__dlpack_device__()

    def __repr__(self: Any) -> str:
        return f"{type(self).__name__}(shape={self.shape}, dtype={self.dtype})"


class CpuArray(HostMemory):
    """A NumPy array behind the contract `nnkit.contracts.HostArray`."""

    __slots__ = ()

    def copy(self) -> "CpuArray":
        """A new array with the same content."""
        return CpuArray(self.host.copy())

    def _on(self, host: npt.NDArray[Any]) -> "CpuArray":
        return CpuArray(host)
