"""Arrays lent to other libraries as DLPack capsules: `torch.from_dlpack(array)` shares the memory.

Source: dlpack.h of DLPack 0.8 (the unversioned capsule, which every consumer still takes) and "Python
Specification for DLPack".
"""

import ctypes
from typing import Any

import numpy as np

CPU, CUDA = 1, 2
"""DLDeviceType: host memory, and that of a CUDA device."""

_NAME = b"dltensor"
_CODES = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}


class _DLDevice(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int32), ("id", ctypes.c_int32))


class _DLDataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _DLDevice),
        ("ndim", ctypes.c_int32),
        ("dtype", _DLDataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _DLManagedTensor(ctypes.Structure):
    _fields_ = (("tensor", _DLTensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


_exported: dict[int, tuple[Any, ...]] = {}
"""What each tensor that is lent out needs to live on, by the tensor's address."""

_python = ctypes.pythonapi
_new = _python.PyCapsule_New
_new.restype, _new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
# The capsule is being destroyed when these see it, so its address goes through, not a reference.
_is_valid = _python.PyCapsule_IsValid
_is_valid.restype, _is_valid.argtypes = ctypes.c_int, (ctypes.c_void_p, ctypes.c_char_p)
_pointer = _python.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_char_p)


def _delete(tensor: int) -> None:
    """The consumer, or the capsule that nobody consumed, is done with the tensor."""
    _exported.pop(tensor, None)


def _destroy(capsule: int) -> None:
    """A consumer renames the capsule and takes the tensor over; one that nobody consumed still owns it."""
    if _is_valid(capsule, _NAME):
        _exported.pop(_pointer(capsule, _NAME), None)


_Callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_DELETER, _DESTRUCTOR = _Callback(_delete), _Callback(_destroy)
# A consumer may call these while the interpreter ends, so they must outlive this module.
for _callback in (_DELETER, _DESTRUCTOR):
    _python.Py_IncRef(ctypes.py_object(_callback))


def capsule(
    owner: Any, address: int, shape: tuple[int, ...], dtype: np.dtype[Any], device: tuple[int, int]
) -> Any:
    """A capsule for a row-major array at that address, which keeps `owner` alive until it is given back.

    `device` is the pair that `__dlpack_device__` returns. Raises BufferError, as the protocol wants it, for a
    dtype that DLPack does not know.
    """
    if dtype.kind not in _CODES or not dtype.isnative:
        raise BufferError(f"DLPack knows no dtype {dtype}; view the array as bytes")
    sizes = (ctypes.c_int64 * len(shape))(*shape)
    strides = (ctypes.c_int64 * len(shape))()
    step = 1
    for axis in reversed(range(len(shape))):
        strides[axis] = step
        step *= shape[axis]
    managed = _DLManagedTensor(
        _DLTensor(
            address,
            _DLDevice(*device),
            len(shape),
            _DLDataType(_CODES[dtype.kind], 8 * dtype.itemsize, 1),
            ctypes.cast(sizes, ctypes.POINTER(ctypes.c_int64)),
            ctypes.cast(strides, ctypes.POINTER(ctypes.c_int64)),
            0,
        ),
        None,
        ctypes.cast(_DELETER, ctypes.c_void_p),
    )
    place = ctypes.addressof(managed)
    _exported[place] = (managed, sizes, strides, owner)
    return _new(place, _NAME, ctypes.cast(_DESTRUCTOR, ctypes.c_void_p))
