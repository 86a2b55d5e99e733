"""Memory shared with other libraries through DLPack: `torch.from_dlpack(array)`, `device.from_dlpack(x)`.

Host memory is NumPy's business. Capsules for a GPU's memory are NumPy's too, made for an array that nobody
reads and then given the name of the GPU: so the functions that end a capsule's life are C code, which may run
while an exception is on its way or the interpreter ends, and both kinds of capsule come for nothing.
Source: dlpack.h of DLPack 1.0 and "Python Specification for DLPack".
"""

import ctypes
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

from nnkit.contracts import SupportsDlpack
from nnkit.device.arrays.inputs import in_words
from nnkit.errors import NnkitError, UsageError, reason

CPU, CUDA = 1, 2
"""DLDeviceType: host memory, and that of a CUDA device."""

HOST = frozenset((CPU, 3, 11))
"""What the host can read: its own memory, and that which CUDA or ROCm has pinned."""

VERSION = (1, 0)
"""The newest layout that is understood here."""

_KINDS = "iufcb"
_CODES = {0: "i", 1: "u", 2: "f", 5: "c", 6: "b"}
_OLD, _VERSIONED = b"dltensor", b"dltensor_versioned"
_READ_ONLY = 1


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    """DLManagedTensor, the layout of before 1.0."""

    _fields_ = (("tensor", _DLTensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class _Versioned(ctypes.Structure):
    """DLManagedTensorVersioned."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _DLTensor),
    )


_python = ctypes.pythonapi
_name_of = _python.PyCapsule_GetName
_name_of.restype, _name_of.argtypes = ctypes.c_char_p, (ctypes.py_object,)
_pointer = _python.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
_rename = _python.PyCapsule_SetName
_rename.restype, _rename.argtypes = ctypes.c_int, (ctypes.py_object, ctypes.c_char_p)
_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
# The capsule keeps the pointer to its new name.
_USED = {name: ctypes.c_char_p(b"used_" + name) for name in (_OLD, _VERSIONED)}


class _Memory:
    """What NumPy makes an array of that it never reads; the array keeps it alive, and it the owner."""

    def __init__(self, owner: Any, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]):
        self.owner = owner
        self.__array_interface__ = {
            "data": (address, False),
            "shape": shape,
            "typestr": dtype.str,
            "version": 3,
        }


def capsule(
    owner: Any,
    address: int,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    device: tuple[int, int],
    max_version: tuple[int, int] | None = None,
) -> Any:
    """A capsule for a row-major array at that address, which keeps `owner` alive until it is given back.

    `device` is the pair that `__dlpack_device__` returns; `max_version` the newest layout that the consumer
    knows, None for the old one. Raises BufferError, as the protocol wants it, for a dtype that DLPack does
    not know.
    """
    if dtype.kind not in _KINDS or not dtype.isnative:
        raise BufferError(f"DLPack knows no dtype {dtype}; view the array as bytes")
    # An address of 0 would be an array without memory.
    unread = np.asarray(_Memory(owner, address or 1, shape, dtype))
    # A NumPy of before 2.1 knows the old layout alone.
    wishes = {"max_version": max_version} if max_version and hasattr(np, "unstack") else {}
    made = unread.__dlpack__(**wishes)  # type: ignore[arg-type]
    tensor = _managed(made).tensor
    tensor.device_type, tensor.device_id = device
    tensor.data = address
    return made


def _managed(made: Any) -> Any:
    """The record in a capsule that nobody has taken yet. Raises UsageError."""
    try:
        name = _name_of(made)
        layout: Any = {_OLD: _Managed, _VERSIONED: _Versioned}[name]
        return layout.from_address(_pointer(made, name))
    except (KeyError, ValueError, ctypes.ArgumentError):
        raise UsageError(f"{in_words(made)} is no DLPack capsule, or somebody has taken it already") from None


def device_of(lender: SupportsDlpack) -> tuple[int, int]:
    """Kind and number of the device whose memory an object lends. Raises UsageError if it lends none."""
    try:
        kind, number = lender.__dlpack_device__()
        return int(kind), int(number)
    except NnkitError:
        raise
    except Exception:
        raise UsageError(
            f"{in_words(lender)} lends nothing through DLPack: give an array of NumPy, torch, JAX, CuPy, ..."
        ) from None


def host_array(lender: SupportsDlpack) -> npt.NDArray[Any]:
    """An array in host memory that an object lends, row-major: shared where it is that already.

    Read-only where the lender says so. Raises UsageError.
    """
    if device_of(lender)[0] not in HOST:
        raise UsageError(f"{type(lender).__name__} lies in the memory of a GPU: copy it to the host first")
    try:
        return np.ascontiguousarray(lent) if (lent := np.from_dlpack(lender)).shape else lent
    except Exception as error:
        raise UsageError(f"{type(lender).__name__} cannot be shared: {reason(error)}") from None


class Tensor:
    """A GPU's memory that another library lends: given back when this is forgotten."""

    def __init__(self, lender: SupportsDlpack, stream: int):
        """`stream` is where the memory will be used, as the driver's number. Raises UsageError."""
        try:
            try:
                made = lender.__dlpack__(stream=stream, max_version=VERSION)
            except TypeError:
                # From before max_version was invented.
                made = lender.__dlpack__(stream=stream)
        except NnkitError:
            raise
        except Exception as error:
            raise UsageError(f"{type(lender).__name__} cannot be shared: {reason(error)}") from None
        record = _managed(made)
        if isinstance(record, _Versioned) and record.major > VERSION[0]:
            raise UsageError(
                f"DLPack {record.major}.{record.minor} is newer than nnkit knows: copy the array"
            )
        tensor = record.tensor
        self.device = tensor.device_type, tensor.device_id
        self.shape = tuple(tensor.shape[: tensor.ndim])
        self.dtype = _dtype(tensor)
        self.address = (tensor.data or 0) + tensor.byte_offset
        self.read_only = isinstance(record, _Versioned) and bool(record.flags & _READ_ONLY)
        if tensor.strides and not _is_row_major(self.shape, tensor.strides[: tensor.ndim]):
            raise UsageError(f"an array of shape {self.shape} that is not contiguous: copy it first")
        # From here on it is ours to give back.
        _rename(made, _USED[_VERSIONED if isinstance(record, _Versioned) else _OLD])
        if record.deleter:
            give_back = weakref.finalize(self, _Deleter(record.deleter), ctypes.addressof(record))
            # When the interpreter ends the lender may be gone before.
            give_back.atexit = False


def _dtype(tensor: _DLTensor) -> np.dtype[Any]:
    kind = _CODES.get(tensor.code)
    try:
        if kind and tensor.lanes == 1 and tensor.bits % 8 == 0:
            return np.dtype("?" if kind == "b" else f"{kind}{tensor.bits // 8}")
    except TypeError:
        pass
    raise UsageError(
        f"an array of DLPack's type {tensor.code} of {tensor.bits} bits, which NumPy lacks: view it as bytes"
    )


def _is_row_major(shape: tuple[int, ...], strides: list[int]) -> bool:
    expected = 1
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length == 0:
            return True
        if length > 1 and stride != expected:
            return False
        expected *= length
    return True
