"""One argument of a launch made into what is packed for a parameter, or refused with a reason.

One converter is chosen for each parameter when the kernel is loaded.
"""

import array
import ctypes
import struct
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from nnkit.contracts import DeviceArray
from nnkit.device.host.array import CpuArray
from nnkit.device.kernels.parameters import Parameter
from nnkit.errors import NnkitError

ArrayT = TypeVar("ArrayT", bound=DeviceArray)
"""The arrays of the device that launches."""

ArrayT_co = TypeVar("ArrayT_co", bound=DeviceArray, covariant=True)


class Borrower(Protocol[ArrayT_co]):
    """A device that takes arrays of other libraries where they lie."""

    def borrow(self, argument: object) -> ArrayT_co | None:
        """The argument as an array of its own, None if it is none. Raises UsageError for memory elsewhere."""


Converter = Callable[[Any, Borrower[DeviceArray]], Any]
"""From an argument and the device to what `struct.pack` takes."""

INTEGER_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}
FLOAT_CODES = {2: "e", 4: "f", 8: "d"}
"""What `struct` calls an integer or a float of so many bytes."""

_COMPLEX = {8: np.complex64, 16: np.complex128}
_INTEGERS = (
    *(np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64),
    *(np.longlong, np.ulonglong),
)


class Refusal(Exception):
    """An argument does not fit; the text says why, where the type alone does not."""


class Borrowed(Generic[ArrayT]):
    """An argument that the device took from another library, as an array of its own."""

    __slots__ = ("array",)

    def __init__(self, array: ArrayT):
        self.array = array


def _why_no_scalar(argument: Any) -> str:
    """What to say of an argument that is not of the type expected, beyond its type."""
    if isinstance(argument, np.ndarray | CpuArray):
        return "which lies in host memory: upload it first with device.upload(array)"
    if hasattr(argument, "address") and hasattr(argument, "rows"):
        return "an array"
    if isinstance(argument, ctypes._Pointer):
        return "which points to memory of the host: upload what it points to"
    return ""


def converter(parameter: Parameter) -> Converter:
    """What converts the arguments for a parameter."""
    if parameter.kind == "pointer":
        return _null_or_array if parameter.marked else _pointer_or_integer
    if parameter.kind == "struct":
        return _struct(parameter.size)
    if parameter.kind == "float":
        return _float(parameter.size)
    integer = _integer(parameter.size)
    return integer if parameter.kind == "integer" else _bits(parameter.size, integer)


def _null_or_array(argument: Any, device: Borrower[DeviceArray]) -> Any:
    try:
        if argument.device is device:
            return argument.address
    except AttributeError:
        pass
    except NnkitError as error:
        raise Refusal(str(error)) from None
    if argument is None or (type(argument) is int and argument == 0):
        return 0
    owner = getattr(argument, "device", None)
    if hasattr(argument, "address") and owner is not None:
        name = getattr(owner, "name", type(owner).__name__)
        raise Refusal(f"an array of another device ({name}): upload it to this one")
    try:
        borrowed = device.borrow(argument)
    except NnkitError as error:
        raise Refusal(str(error)) from None
    if borrowed is not None:
        return Borrowed(borrowed)
    if isinstance(argument, list | tuple | range):
        raise Refusal("which is no array: make one with np.array(..., dtype)")
    if isinstance(argument, bytes | bytearray | memoryview | ctypes.Array | array.array):
        raise Refusal("which is no array: np.frombuffer(..., dtype) makes one in its place")
    raise Refusal(_why_no_scalar(argument))


def _pointer_or_integer(argument: Any, device: Borrower[DeviceArray]) -> Any:
    # Arrays first, and without a call in between: most parameters of most launches are arrays.
    try:
        if argument.device is device:
            return argument.address
    except AttributeError:
        pass
    except NnkitError as error:
        raise Refusal(str(error)) from None
    if isinstance(argument, np.integer | int) and type(argument) is not bool:
        return _integer_64(argument, device)
    if isinstance(argument, np.ndarray) and not argument.ndim:
        raise Refusal("a number or memory? Give array[()] for the number, array.reshape(1) for the memory")
    return _null_or_array(argument, device)


def _integer(size: int) -> Converter:
    """Integers of that size in bytes, signed or not: two's complement makes them one."""
    mask = (1 << 8 * size) - 1
    lowest = -(1 << (8 * size - 1))
    accepted = frozenset(kind for kind in _INTEGERS if np.dtype(kind).itemsize == size)

    def convert(argument: Any, device: Borrower[DeviceArray]) -> int:
        kind = type(argument)
        if kind in accepted:
            return int(argument) & mask
        if isinstance(argument, int) and kind is not bool:
            if lowest <= argument <= mask:
                return argument & mask
            raise Refusal(f"which needs more than {8 * size} bits")
        if size == 1 and kind in {bool, np.bool_}:
            return int(argument)
        if isinstance(argument, float | np.floating):
            raise Refusal("a float")
        if isinstance(argument, np.integer):
            raise Refusal(f"which has {8 * argument.itemsize} bits: write int(...) or np.int{8 * size}(...)")
        raise Refusal(_why_no_scalar(argument))

    return convert


_integer_64 = _integer(8)


def _float(size: int) -> Converter:
    accepted = np.dtype(f"f{size}").type
    code = struct.Struct(f"<{FLOAT_CODES[size]}")  # Native layout would not notice an overflow.

    def convert(argument: Any, device: Borrower[DeviceArray]) -> Any:
        kind = type(argument)
        if kind is accepted:
            return argument
        if kind is float:
            try:
                code.pack(argument)
            except OverflowError:
                raise Refusal(f"which needs more than {8 * size} bits") from None
            return argument
        if isinstance(argument, int | np.integer):
            raise Refusal(f"an integer: write float({argument})")
        if isinstance(argument, np.floating):
            raise Refusal(
                f"which has {8 * argument.itemsize} bits: write float(...) or np.float{8 * size}(...)"
            )
        raise Refusal(_why_no_scalar(argument))

    return convert


def _bits(size: int, integer: Converter) -> Converter:
    """Integers or floats of that size in bytes, as their bits."""
    code = FLOAT_CODES.get(size)
    accepted = None if code is None else np.dtype(f"f{size}").type

    def convert(argument: Any, device: Borrower[DeviceArray]) -> Any:
        if code is not None and type(argument) in {float, accepted}:
            try:
                return int.from_bytes(struct.pack(f"<{code}", argument), "little")
            except OverflowError:
                raise Refusal(f"which needs more than {8 * size} bits") from None
        return integer(argument, device)

    return convert


def _struct(size: int) -> Converter:
    def convert(argument: Any, device: Borrower[DeviceArray]) -> bytes:
        if isinstance(argument, bytes | bytearray):
            content = bytes(argument)
        elif isinstance(argument, complex) and size in _COMPLEX:
            content = _COMPLEX[size](argument).tobytes()
        elif _is_record(argument):
            # In the machine's byte order, whatever that of the fields is.
            content = np.asarray(argument).astype(argument.dtype.newbyteorder("=")).tobytes()
        elif isinstance(argument, ctypes.Structure | ctypes.Union | ctypes.Array):
            if isinstance(argument, ctypes.BigEndianStructure | ctypes.BigEndianUnion):
                raise Refusal("whose fields are in another byte order: make it a ctypes.Structure")
            content = bytes(argument)
        elif isinstance(argument, np.ndarray):
            raise Refusal("an array: give array.tobytes() if its bytes are the struct")
        else:
            raise Refusal(_why_no_scalar(argument))
        if len(content) != size:
            padding = " (C pads structs: np.dtype(..., align=True) does, too)" if _is_record(argument) else ""
            raise Refusal(
                "" if isinstance(argument, bytes | bytearray) else f"which has {len(content)} bytes{padding}"
            )
        return content

    return convert


def plain_value(argument: Any, pointer: bool = False) -> Any:
    """NumPy's number for one in an array without axes or in a ctypes object; the argument if it is none.

    With `pointer` an array stays one, for it may be meant as memory.
    """
    if (
        isinstance(argument, np.ndarray)
        and not argument.ndim
        and not argument.dtype.hasobject
        and not pointer
    ):
        return argument.astype(argument.dtype.newbyteorder("="))[()]
    if isinstance(argument, ctypes.c_void_p):
        return argument.value
    if isinstance(argument, ctypes._SimpleCData):
        try:
            return np.dtype(type(argument)).type(argument.value)
        except (TypeError, ValueError):
            return argument
    if isinstance(argument, memoryview):
        return argument.tobytes()
    return argument


def _is_record(argument: Any) -> bool:
    """A structured scalar, or a number that CUDA passes as a struct: __half and the complex ones."""
    if isinstance(argument, np.ndarray):
        return argument.ndim == 0 and argument.dtype.kind == "V"
    return isinstance(argument, np.void | np.float16 | np.complexfloating)
