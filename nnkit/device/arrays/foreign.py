"""Arrays of other libraries, given to a kernel as they are: what they say of their memory.

`__array_interface__` (NumPy: "The array interface protocol") for the host's, `__cuda_array_interface__`
(Numba: "CUDA Array Interface", version 3) for that of a GPU.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

import numpy as np
import numpy.typing as npt

from nnkit.contracts import SupportsDlpack
from nnkit.errors import NnkitError, UsageError, reason

_NOT_CONTIGUOUS = (
    "which is not contiguous (row-major): give a copy that is, or upload it with device.upload(array)"
)


class SupportsArrayInterface(Protocol):
    """An array in the host's memory that says so."""

    @property
    def __array_interface__(self) -> Mapping[str, Any]:
        """Address, shape, type and strides, as NumPy defines them."""


class SupportsCudaArrayInterface(Protocol):
    """An array in a GPU's memory that says so."""

    @property
    def __cuda_array_interface__(self) -> Mapping[str, Any]:
        """Address, shape, type, strides and stream, as Numba defines them."""


def lends_host_memory(argument: object) -> TypeGuard[SupportsArrayInterface]:
    """Whether it is an array in the host's memory."""
    return _lends(argument, "__array_interface__")


def lends_gpu_memory(argument: object) -> TypeGuard[SupportsCudaArrayInterface]:
    """Whether it is an array in a GPU's memory."""
    return _lends(argument, "__cuda_array_interface__")


def lends_dlpack(argument: object) -> TypeGuard[SupportsDlpack]:
    """Whether it is an array that DLPack can share, wherever it lies."""
    return _lends(argument, "__dlpack__")


def _lends(argument: object, protocol: str) -> bool:
    # A scalar of NumPy has the interface, but it is a value. Any property may raise anything.
    try:
        return hasattr(argument, protocol) and not isinstance(argument, np.generic | type)
    except Exception:
        return False


def host_memory(argument: SupportsArrayInterface) -> npt.NDArray[Any]:
    """The memory itself as a NumPy array, read-only where the lender says so. Raises UsageError."""
    try:
        interface = argument.__array_interface__
        masked = interface.get("mask") is not None or isinstance(argument, np.ma.MaskedArray)
        values = np.asarray(argument)
    except NnkitError:
        raise
    except Exception as error:
        raise UsageError(f"whose __array_interface__ is wrong: {reason(error)}") from None
    if masked:
        raise UsageError("which has a mask: fill it first")
    if values.dtype.hasobject:
        raise UsageError("which holds Python objects: convert it first")
    if not values.dtype.isnative:
        raise UsageError("which is in another byte order: device.upload(array) converts it")
    if not values.flags.c_contiguous:
        raise UsageError(_NOT_CONTIGUOUS)
    return values


@dataclass(frozen=True)
class GpuMemory:
    """What `__cuda_array_interface__` says of a row-major array."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read_only: bool
    stream: int
    """Where it is being written, as the driver's number; 0 if nothing need be waited for."""


def gpu_memory(argument: SupportsCudaArrayInterface) -> GpuMemory:
    """What an object says of its memory. Raises UsageError for what no kernel can take."""
    try:
        interface = argument.__cuda_array_interface__
        address, read_only = interface["data"]
        shape = tuple(int(length) for length in interface["shape"])
        dtype = np.dtype(interface["typestr"])
        if dtype.kind == "V" and interface.get("descr"):
            dtype = np.dtype([tuple(field) for field in interface["descr"]])
        strides, stream = interface.get("strides"), interface.get("stream")
        version, mask = int(interface["version"]), interface.get("mask")
        found = GpuMemory(int(address or 0), shape, dtype, bool(read_only), int(stream or 0))
    except NnkitError:
        raise
    except Exception as error:
        raise UsageError(f"whose __cuda_array_interface__ is wrong: {reason(error)}") from None
    if version < 1 or (version >= 3 and stream == 0):
        raise UsageError(f"whose __cuda_array_interface__ is wrong: version {version}, stream {stream}")
    if mask is not None:
        raise UsageError("which has a mask: fill it first")
    if not dtype.isnative or dtype.hasobject:
        raise UsageError(f"whose dtype {dtype.str} no kernel knows: convert it first")
    if strides is not None and tuple(strides) != _row_major(shape, dtype.itemsize) and 0 not in shape:
        raise UsageError(_NOT_CONTIGUOUS)
    return found


def _row_major(shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    strides: list[int] = []
    for length in reversed(shape):
        strides.insert(0, size)
        size *= length
    return tuple(strides)
