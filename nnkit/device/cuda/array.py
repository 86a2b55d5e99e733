"""An array in the memory of a GPU."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from nnkit.contracts import Device
from nnkit.device.arrays import dlpack
from nnkit.device.arrays.array import Lookable, row_range, viewed_shape, viewed_type
from nnkit.device.arrays.inputs import values_for
from nnkit.device.bound import Bound
from nnkit.device.cuda.gpu import Gpu
from nnkit.device.cuda.memory import Block, bytes_of
from nnkit.errors import UsageError


class Foreign:
    """Memory that another library owns, for as long as the arrays on it live."""

    __slots__ = ("owner",)

    def __init__(self, owner: Any):
        self.owner = owner


class CudaArray(Lookable, Bound):
    """`nnkit.contracts.DeviceArray` on a GPU: row-major, contiguous; a view keeps the memory alive.

    Other libraries see the same memory through `__cuda_array_interface__` (numba, CuPy) and DLPack (torch,
    JAX); they and nnkit work in the default stream, so each sees what the other did.
    """

    __slots__ = ("_address", "_block", "_gpu", "device", "dtype", "shape")
    instead = "array.download() is NumPy's, array.copy() one more on the device"

    def __init__(
        self,
        device: "Device[CudaArray]",
        gpu: Gpu,
        block: Block | Foreign,
        address: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
    ):
        self.device = device
        self._gpu = gpu
        self._block = block
        self._address = address
        self.shape = shape
        self.dtype = dtype

    @property
    def lender(self) -> Any:
        """What keeps the memory: a block of the device's own, or another library's object."""
        return self._block.owner if isinstance(self._block, Foreign) else self._block

    @property
    def address(self) -> int:
        """The device address of the first element; raises DeviceError once the device is closed."""
        if self._gpu.context.unusable:
            self._gpu.context.activate()
        return self._address

    @property
    def nbytes(self) -> int:
        """The size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def rows(self, start: int, stop: int) -> "CudaArray":
        """A view of rows start to stop, counted and clipped as in a slice."""
        first, end = row_range(self, start, stop)
        rest = self.shape[1:]
        offset = first * math.prod(rest) * self.dtype.itemsize
        return self._at(self._address + offset, (end - first, *rest), self.dtype)

    def reshape(self, shape: int | tuple[int, ...]) -> "CudaArray":
        """A view with another shape; raises UsageError if the numbers of elements differ."""
        return self._at(self._address, viewed_shape(self, shape), self.dtype)

    def view(self, dtype: npt.DTypeLike) -> "CudaArray":
        """The same bytes as another type; raises UsageError where the last axis does not fit."""
        return self._at(self._address, *viewed_type(self, dtype))

    def _at(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> "CudaArray":
        """An array in the same memory, which it keeps alive."""
        return CudaArray(self.device, self._gpu, self._block, address, shape, dtype)

    def copy(self) -> "CudaArray":
        """A new array with the same content, copied on the GPU."""
        twin = self.device.empty(self.shape, self.dtype)
        if self.nbytes:
            context = self._gpu.context
            context.call(
                *("cuMemcpyDtoDAsync", twin.address, self.address, self.nbytes, context.stream),
                doing="copying on the GPU",
            )
        return twin

    def download(self) -> npt.NDArray[Any]:
        """A copy in host memory; waits for the launches before, and raises what they did wrong."""
        host = np.empty(self.shape, self.dtype)
        address = self.address
        if self.nbytes:
            self._gpu.staging.download(address, bytes_of(host))
        return host

    def write(self, host: npt.ArrayLike) -> None:
        """Overwrite with values of the same shape and dtype; raises UsageError for others."""
        values = values_for(self, host)
        address = self.address
        if self.nbytes:
            self._gpu.staging.upload(bytes_of(np.ascontiguousarray(values)), address)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Raises UsageError: NumPy sees host memory alone, and a copy is worth a word."""
        raise UsageError("the array lies in the memory of a GPU: array.download() copies it to the host")

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3 of numba's protocol; the stream is the default one."""
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "descr": self.dtype.descr,
            "data": (self.address if self.nbytes else 0, False),
            "strides": None,
            "stream": int(self._gpu.context.stream),
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        """DLPack's name of this GPU."""
        return dlpack.CUDA, self._gpu.ordinal

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A DLPack capsule; waits for the launches before unless `stream` is -1.

        Raises BufferError for another device or a dtype that DLPack does not know.
        """
        if dl_device is not None and dl_device != self.__dlpack_device__():
            raise BufferError("a CudaArray is lent on its own GPU alone; download() copies it to the host")
        lent = self.copy() if copy else self
        if stream != -1:
            self.device.synchronize()
        place = self.__dlpack_device__()
        return dlpack.capsule(lent, lent.address, self.shape, self.dtype, place, max_version)

    def __repr__(self) -> str:
        return f"CudaArray(shape={self.shape}, dtype={self.dtype}, device={self._gpu.label})"
