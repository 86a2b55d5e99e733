"""An array in host memory, the kind that the device `cpu` holds."""

from typing import Any

import numpy as np
import numpy.typing as npt


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

    def download(self) -> npt.NDArray[Any]:
        """A copy."""
        return self.host.copy()

    def write(self, host: npt.NDArray[Any]) -> None:
        """Overwrite with values of the same shape."""
        if host.shape != self.host.shape:
            raise ValueError(f"cannot write an array of shape {host.shape} to one of shape {self.host.shape}")
        np.copyto(self.host, host)

    def __repr__(self) -> str:
        return f"CpuArray(shape={self.shape}, dtype={self.dtype})"
