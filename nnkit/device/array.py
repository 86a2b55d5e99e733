"""An array in host memory, the kind that the device `cpu` holds, and the checks that all arrays share."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from nnkit.contracts import Array
from nnkit.errors import UsageError


def check_write(array: Array, host: npt.NDArray[Any]) -> None:
    """Raises UsageError unless host has the array's shape and dtype: values are never converted silently."""
    if host.shape != array.shape:
        raise UsageError(f"cannot write an array of shape {host.shape} to one of shape {array.shape}")
    if host.dtype != array.dtype:
        raise UsageError(
            f"cannot write {host.dtype} to an array of {array.dtype}; convert it first: "
            f"host.astype({str(array.dtype)!r})"
        )


def check_reshape(array: Array, shape: tuple[int, ...]) -> None:
    """Raises UsageError unless the shape holds as many elements as the array."""
    if any(length < 0 for length in shape) or math.prod(shape) != math.prod(array.shape):
        raise UsageError(
            f"cannot see an array of shape {array.shape} as {shape}: the numbers of elements differ"
        )


class CpuArray:
    """A NumPy array behind the contract `nnkit.contracts.HostArray`."""

    __slots__ = ("host",)

    def __init__(self, host: npt.NDArray[Any]):
        self.host = host

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of every axis."""
        return self.host.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of an element."""
        return self.host.dtype

    def rows(self, start: int, stop: int) -> "CpuArray":
        """A view of rows start to stop."""
        return CpuArray(self.host[start:stop])

    def reshape(self, shape: tuple[int, ...]) -> "CpuArray":
        """A view with another shape; raises UsageError if the numbers of elements differ."""
        check_reshape(self, shape)
        return CpuArray(self.host.reshape(shape))

    def copy(self) -> "CpuArray":
        """A new array with the same content."""
        return CpuArray(self.host.copy())

    def download(self) -> npt.NDArray[Any]:
        """A copy."""
        return self.host.copy()

    def write(self, host: npt.NDArray[Any]) -> None:
        """Overwrite with values of the same shape and dtype; raises UsageError for others."""
        check_write(self, host)
        np.copyto(self.host, host)

    def __repr__(self) -> str:
        return f"CpuArray(shape={self.shape}, dtype={self.dtype})"
