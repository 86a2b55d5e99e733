"""What callers give to a device, made into what the device works with: shapes, dtypes, values, text.

As NumPy takes them where that has one meaning; anything else is a UsageError of one line.
"""

import sys
from itertools import islice
from operator import index
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

from nnkit.errors import NnkitError, UsageError, reason
from nnkit.files import read_file

MOST_AXES = 64
"""As NumPy's arrays have."""

_KINDS = frozenset("biufcSUVmM")
_RANKS = {"b": 0, "i": 1, "u": 1, "f": 2, "c": 3}
"""Kinds of numbers, each of which holds those before it."""


def in_words(value: Any) -> str:
    """A value in a few words, for a message: its repr if that is short, else its type."""
    if isinstance(value, np.ndarray):
        return f"a NumPy array of shape {value.shape} and dtype {value.dtype}"
    if isinstance(value, bytes | bytearray):
        return f"{len(value)} bytes"
    try:
        text = repr(value)
    except Exception:
        text = ""
    return text if 0 < len(text) <= 60 and text.isprintable() else f"a {type(value).__name__}"


def several(values: Any, most: int) -> list[Any]:
    """What something holds, as far as one more than `most`; raises TypeError for what cannot be walked.

    An object with an index alone has no end, and a pointer of ctypes is one: what lies behind it may be
    nobody's memory.
    """
    if not hasattr(type(values), "__iter__"):
        raise TypeError(f"a {type(values).__name__} does not hold several")
    return list(islice(values, most + 1))


def shape_of(shape: Any) -> tuple[int, ...]:
    """A shape, given as a whole number or several; raises UsageError."""
    try:
        lengths = tuple(map(index, shape)) if isinstance(shape, tuple | list) else (index(shape),)
    except Exception:
        try:
            lengths = tuple(map(index, several(shape, MOST_AXES)))
        except Exception:
            raise UsageError(
                f"shape {in_words(shape)}: give a whole number or a tuple of them, such as (2, 3)"
            ) from None
    if any(length < 0 for length in lengths):
        raise UsageError(f"an array cannot have the shape {lengths}: every length must be at least 0")
    if len(lengths) > MOST_AXES or any(length > sys.maxsize for length in lengths):
        raise UsageError(
            f"an array cannot have the shape {in_words(lengths)}: at most {MOST_AXES} lengths, "
            f"each at most {sys.maxsize}"
        )
    return lengths


def element_of(dtype: Any) -> np.dtype[Any]:
    """A dtype whose elements a device can hold, in the machine's byte order; raises UsageError."""
    try:
        element: np.dtype[Any] = np.empty(0, np.dtype(dtype).newbyteorder("=")).dtype
    except Exception:
        raise UsageError(
            f"dtype {in_words(dtype)}: NumPy knows no such type; give one like np.float32 or 'int64'"
        ) from None
    if element.hasobject or element.kind not in _KINDS:
        raise UsageError(f"a device holds no Python objects: dtype {element} is not possible")
    if not element.itemsize:
        raise UsageError(f"dtype {element} has no bytes: give it a size")
    return element


def array_type(shape: Any, dtype: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and element of a new array; the axes of a dtype like '(2,2)f4' come last, as in NumPy."""
    lengths = shape_of(shape)
    try:
        extra: tuple[int, ...] = np.dtype(dtype).shape
    except Exception:
        extra = ()
    return shape_of((*lengths, *extra)) if extra else lengths, element_of(dtype)


def host_values(host: Any) -> npt.NDArray[Any]:
    """Values as a NumPy array that a device can hold, in the machine's byte order; raises UsageError."""
    try:
        # A warning about what NumPy makes of nonsense would hide what is wrong with it.
        values = np.asarray(host)
    except NnkitError:
        raise
    except Exception as error:
        raise UsageError(f"{in_words(host)} is no array: {reason(error)}") from None
    if isinstance(host, np.ma.MaskedArray) and np.ma.is_masked(host):
        raise UsageError(
            "a masked array has elements without a value: fill them first with array.filled(...)"
        )
    element = values.dtype
    if element.hasobject or element.kind not in _KINDS or not element.itemsize:
        raise UsageError(
            f"{in_words(host)} is no array of numbers (its dtype is {element}): give rows of equal length "
            "and elements of one type"
        )
    return values if element.isnative else values.astype(element.newbyteorder("="))


def values_for(array: Any, host: Any) -> npt.NDArray[Any]:
    """Values to overwrite an array of a device with: of its shape, and of its dtype.

    An array of another dtype is refused, for values are never converted silently; numbers of Python, alone or
    in lists, take the array's dtype where it holds them. Raises UsageError.
    """
    if type(host) is np.ndarray and host.dtype == array.dtype and host.shape == array.shape:
        return host
    if hasattr(host, "dtype") or hasattr(host, "__array_interface__") or hasattr(host, "__array__"):
        values = host_values(host)
    else:
        values = _converted(host, array.dtype)
    if values.shape != array.shape:
        raise UsageError(f"cannot write an array of shape {values.shape} to one of shape {array.shape}")
    if values.dtype != array.dtype:
        raise UsageError(
            f"cannot write {values.dtype} to an array of {array.dtype}; convert it first: "
            f"host.astype({str(array.dtype)!r})"
        )
    return values


def _converted(host: Any, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Numbers of Python as that dtype, if it is of their kind and has room."""
    try:
        values = np.asarray(host)
        # No number at all says nothing of a kind.
        if values.size and _RANKS.get(values.dtype.kind, 9) > _RANKS.get(dtype.kind, 9):
            raise TypeError(f"they are {values.dtype}")
        with np.errstate(over="raise"):
            return np.asarray(host, dtype)
    except Exception as error:
        raise UsageError(
            f"cannot write {in_words(host)} to an array of {dtype}: "
            f"{reason(error)}: give numbers that it holds"
        ) from None


def ptx_text(ptx: Any) -> str:
    """PTX as text, given as text, as bytes, or as a path; raises UsageError.

    A path is a PathLike, or a str without newline that ends in .ptx.
    """
    if isinstance(ptx, PathLike) or (isinstance(ptx, str) and ptx.endswith(".ptx") and "\n" not in ptx):
        try:
            ptx = read_file(ptx)
        except (OSError, TypeError, ValueError) as error:
            raise UsageError(
                f"cannot read the PTX {str(ptx)[:200]!r}: {reason(error)}: give a file that is there"
            ) from None
    if isinstance(ptx, bytes | bytearray):
        if ptx.startswith(b"\x7fELF"):
            raise UsageError(f"{len(ptx)} bytes are machine code (a cubin), not PTX: nvcc -ptx makes PTX")
        try:
            # As the driver takes it: with or without the zero byte that ends a C string.
            text = bytes(ptx).rstrip(b"\0").decode("utf-8-sig")
        except UnicodeDecodeError:
            raise UsageError(
                f"{len(ptx)} bytes are no PTX, which is text: give what compile_cuda or nvcc -ptx makes"
            ) from None
    elif isinstance(ptx, str):
        text = ptx
    else:
        raise UsageError(f"PTX must be text, bytes or a path, got {in_words(ptx)}")
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text if letter > "\ud7ff"):
        raise UsageError("the PTX holds a zero byte or a lone surrogate: give text")
    return text
