"""The arguments of a launch, checked against the kernel's parameters and packed as the kernel reads them.

Used by the devices `virtual` and `cuda` on every launch, so what can be decided before is: one converter is
chosen for each parameter when the kernel is loaded.
"""

import array
import ctypes
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nnkit.device.arrays.array import CpuArray
from nnkit.device.arrays.inputs import in_words
from nnkit.device.kernels.elements import ElementTypes
from nnkit.device.kernels.parameters import Parameter, parameters
from nnkit.errors import LaunchError, NnkitError, reason

__all__ = ["Packer", "Parameter", "parameters"]

Converter = Callable[[Any, Any], Any]
"""From an argument and the device to what `struct.pack` takes."""

BUFFER_ALIGN = 64
"""As much as PTX ever asks of a parameter, in bytes."""

_INTEGER_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}
_FLOAT_CODES = {2: "e", 4: "f", 8: "d"}
_COMPLEX = {8: np.complex64, 16: np.complex128}
_INTEGERS = (
    *(np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64),
    *(np.longlong, np.ulonglong),
)


class _Refusal(Exception):
    """An argument does not fit; the text says why, where the type alone does not."""


class _Borrowed:
    """An argument that the device took from another library, as an array of its own."""

    __slots__ = ("array",)

    def __init__(self, array: Any):
        self.array = array


class Packer:
    """Packs one kernel's arguments into one buffer, laid out as PTX says.

    `buffer` and `address` are the same memory throughout: the next `pack` overwrites it. `pointers` is the
    address of an array with the address of each parameter in it, as `cuLaunchKernel` takes them.
    """

    def __init__(self, kernel: str, parameters: Sequence[Parameter], elements: ElementTypes | None = None):
        """`elements` says what the arrays behind the pointers must hold; None lets any array pass."""
        self.kernel = kernel
        self.parameters = tuple(parameters)
        self._elements = elements
        self.offsets: list[int] = []
        self.size = 0
        layout = "<"
        for parameter in self.parameters:
            offset = -(-self.size // parameter.align) * parameter.align
            layout += f"{offset - self.size}x{_code(parameter)}"
            self.offsets.append(offset)
            self.size = offset + parameter.size
        self._struct = struct.Struct(layout)
        self._converters = [_converter(parameter) for parameter in self.parameters]
        self.borrowed: dict[int, Any] = {}
        """Arrays of other libraries among the last arguments, by place, as arrays of the device.

        They must live as long as the launch.
        """
        # The dtype that was last found right behind each pointer: dtypes of NumPy's own are single objects.
        self._dtypes: dict[int, np.dtype[Any] | None] = {}
        if elements is not None:
            pointers = [i for i, parameter in enumerate(self.parameters) if parameter.kind == "pointer"]
            self._dtypes = dict.fromkeys(pointers)
        memory = bytearray(self.size + BUFFER_ALIGN)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self.buffer = (ctypes.c_char * self.size).from_buffer(memory, -start % BUFFER_ALIGN)
        self.address = ctypes.addressof(self.buffer)
        self._pointers = (ctypes.c_void_p * max(1, len(self.offsets)))(
            *(self.address + offset for offset in self.offsets)
        )
        self.pointers = ctypes.addressof(self._pointers)

    def __repr__(self) -> str:
        """The kernel and what each of its parameters is."""
        kinds = ", ".join(_noun(parameter).removeprefix("a ") for parameter in self.parameters)
        return self.kernel if self.kernel.endswith(")") else f"{self.kernel}({kinds})"

    def pack(self, args: Sequence[Any], device: Any) -> "ctypes.Array[ctypes.c_char]":
        """Write the arguments of a launch on that device to `buffer`.

        Raises LaunchError that names kernel, parameter, what was given and what is expected.
        """
        values: list[Any] = []
        if self.borrowed:
            self.borrowed = {}
        if not isinstance(args, tuple | list) and (
            not isinstance(args, Sequence) or isinstance(args, str | bytes | bytearray)
        ):
            raise LaunchError(f"kernel {self.kernel}: args must be a tuple or a list, got {in_words(args)}")
        try:
            if len(args) != len(self._converters):
                raise self._wrong_count(len(args))
            for convert, argument in zip(self._converters, args, strict=True):
                values.append(convert(argument, device))
            if _Borrowed in map(type, values):
                self.borrowed = {i: value.array for i, value in enumerate(values) if type(value) is _Borrowed}
                values = [value.array.address if type(value) is _Borrowed else value for value in values]
            for place, dtype in self._dtypes.items():
                argument = self.borrowed.get(place, args[place]) if self.borrowed else args[place]
                if argument is not None and getattr(argument, "dtype", None) is not dtype:
                    self._check_dtype(place, args)
        except _Refusal as refusal:
            place = len(values)
            plain = plain_value(args[place], pointer=self.parameters[place].kind == "pointer")
            if plain is not args[place]:
                return self.pack((*args[:place], plain, *args[place + 1 :]), device)
            raise self._refused(place, args[place], str(refusal)) from None
        except (NnkitError, KeyboardInterrupt):
            raise
        except Exception as error:
            # An object of any kind may do anything when it is asked what it is.
            why = f"which raises {type(error).__name__}: {reason(error)}"
            raise self._refused(len(values), args[len(values)], why) from None
        self._struct.pack_into(self.buffer, 0, *values)
        return self.buffer

    def take_borrowed(self) -> "list[Any]":
        """The arrays of other libraries among the last arguments: from now on the caller keeps them alive."""
        if not self.borrowed:
            return []
        taken, self.borrowed = list(self.borrowed.values()), {}
        return taken

    def _check_dtype(self, place: int, args: Sequence[Any]) -> None:
        """Raises LaunchError where the kernel reads the array as something else than it holds."""
        arrays = {
            i: self.borrowed.get(i, args[i])
            for i in self._dtypes
            if i in self.borrowed or hasattr(args[i], "address")
        }
        if place not in arrays:
            return
        assert self._elements is not None
        dtype = arrays[place].dtype
        if not self._elements.refusal(place, dtype):
            self._dtypes[place] = dtype
            return
        others = [array.dtype for i, array in arrays.items() if i != place]
        if why := self._elements.refusal(place, dtype, others):
            raise self._refused(place, args[place], why)

    def _wrong_count(self, given: int) -> LaunchError:
        kinds = ", ".join(_noun(parameter) for parameter in self.parameters) or "none"
        return LaunchError(
            f"kernel {self.kernel} takes {len(self.parameters)} argument(s), got {given}; "
            f"its parameters: {kinds}"
        )

    def _refused(self, index: int, argument: Any, why: str) -> LaunchError:
        parameter = self.parameters[index]
        # NVRTC makes the names of parameters out of that of the kernel, which may be mangled.
        called = "" if parameter.name.startswith("_Z") else f"{parameter.name}, "
        return LaunchError(
            f"kernel {self.kernel}, argument {index + 1} of {len(self.parameters)} ({called}"
            f"{_noun(parameter)}): got {in_words(argument)}{', ' + why if why else ''}; "
            f"expected {_expected(parameter)}"
        )


def _code(parameter: Parameter) -> str:
    if parameter.kind == "struct":
        return f"{parameter.size}s"
    return (_FLOAT_CODES if parameter.kind == "float" else _INTEGER_CODES)[parameter.size]


def _noun(parameter: Parameter) -> str:
    bits = 8 * parameter.size
    return {
        "pointer": "a pointer" if parameter.marked else "a pointer or a 64-bit integer",
        "integer": f"an {bits}-bit integer" if bits == 8 else f"a {bits}-bit integer",
        "float": f"a {bits}-bit float",
        "bits": f"any {bits} bits",
        "struct": f"a struct of {parameter.size} bytes",
    }[parameter.kind]


def _expected(parameter: Parameter) -> str:
    bits = 8 * parameter.size
    integer = f"np.int{bits}, np.uint{bits} or an int" + (" or a bool" if bits == 8 else "")
    return {
        "pointer": "an array of this device"
        + (" or None" if parameter.marked else ", None, np.int64, np.uint64 or an int"),
        "integer": integer,
        "float": f"np.float{bits} or a float",
        "bits": integer + (f", np.float{bits} or a float" if bits > 8 else ""),
        "struct": f"{parameter.size} bytes, as bytes, a NumPy structured scalar or a ctypes structure",
    }[parameter.kind]


def _why_no_scalar(argument: Any) -> str:
    """What to say of an argument that is not of the type expected, beyond its type."""
    if isinstance(argument, np.ndarray | CpuArray):
        return "which lies in host memory: upload it first with device.upload(array)"
    if hasattr(argument, "address") and hasattr(argument, "rows"):
        return "an array"
    if isinstance(argument, ctypes._Pointer):
        return "which points to memory of the host: upload what it points to"
    return ""


def _converter(parameter: Parameter) -> Converter:
    if parameter.kind == "pointer":
        return _null_or_array if parameter.marked else _pointer_or_integer
    if parameter.kind == "struct":
        return _struct(parameter.size)
    if parameter.kind == "float":
        return _float(parameter.size)
    integer = _integer(parameter.size)
    return integer if parameter.kind == "integer" else _bits(parameter.size, integer)


def _null_or_array(argument: Any, device: Any) -> Any:
    try:
        if argument.device is device:
            return argument.address
    except AttributeError:
        pass
    except NnkitError as error:
        raise _Refusal(str(error)) from None
    if argument is None or (type(argument) is int and argument == 0):
        return 0
    owner = getattr(argument, "device", None)
    if hasattr(argument, "address") and owner is not None:
        name = getattr(owner, "name", type(owner).__name__)
        raise _Refusal(f"an array of another device ({name}): upload it to this one")
    try:
        borrowed = device.borrow(argument) if hasattr(device, "borrow") else None
    except NnkitError as error:
        raise _Refusal(str(error)) from None
    if borrowed is not None:
        return _Borrowed(borrowed)
    if isinstance(argument, list | tuple | range):
        raise _Refusal("which is no array: make one with np.array(..., dtype)")
    if isinstance(argument, bytes | bytearray | memoryview | ctypes.Array | array.array):
        raise _Refusal("which is no array: np.frombuffer(..., dtype) makes one in its place")
    raise _Refusal(_why_no_scalar(argument))


def _pointer_or_integer(argument: Any, device: Any) -> Any:
    # Arrays first, and without a call in between: most parameters of most launches are arrays.
    try:
        if argument.device is device:
            return argument.address
    except AttributeError:
        pass
    except NnkitError as error:
        raise _Refusal(str(error)) from None
    if isinstance(argument, np.integer | int) and type(argument) is not bool:
        return _integer_64(argument, device)
    if isinstance(argument, np.ndarray) and not argument.ndim:
        raise _Refusal("a number or memory? Give array[()] for the number, array.reshape(1) for the memory")
    return _null_or_array(argument, device)


def _integer(size: int) -> Converter:
    """Integers of that size in bytes, signed or not: two's complement makes them one."""
    mask = (1 << 8 * size) - 1
    lowest = -(1 << (8 * size - 1))
    accepted = frozenset(kind for kind in _INTEGERS if np.dtype(kind).itemsize == size)

    def convert(argument: Any, device: Any) -> int:
        kind = type(argument)
        if kind in accepted:
            return int(argument) & mask
        if isinstance(argument, int) and kind is not bool:
            if lowest <= argument <= mask:
                return argument & mask
            raise _Refusal(f"which needs more than {8 * size} bits")
        if size == 1 and kind in {bool, np.bool_}:
            return int(argument)
        if isinstance(argument, float | np.floating):
            raise _Refusal("a float")
        if isinstance(argument, np.integer):
            raise _Refusal(f"which has {8 * argument.itemsize} bits: write int(...) or np.int{8 * size}(...)")
        raise _Refusal(_why_no_scalar(argument))

    return convert


_integer_64 = _integer(8)


def _float(size: int) -> Converter:
    accepted = np.dtype(f"f{size}").type
    code = struct.Struct(f"<{_FLOAT_CODES[size]}")  # Native layout would not notice an overflow.

    def convert(argument: Any, device: Any) -> Any:
        kind = type(argument)
        if kind is accepted:
            return argument
        if kind is float:
            try:
                code.pack(argument)
            except OverflowError:
                raise _Refusal(f"which needs more than {8 * size} bits") from None
            return argument
        if isinstance(argument, int | np.integer):
            raise _Refusal(f"an integer: write float({argument})")
        if isinstance(argument, np.floating):
            raise _Refusal(
                f"which has {8 * argument.itemsize} bits: write float(...) or np.float{8 * size}(...)"
            )
        raise _Refusal(_why_no_scalar(argument))

    return convert


def _bits(size: int, integer: Converter) -> Converter:
    """Integers or floats of that size in bytes, as their bits."""
    code = _FLOAT_CODES.get(size)
    accepted = None if code is None else np.dtype(f"f{size}").type

    def convert(argument: Any, device: Any) -> Any:
        if code is not None and type(argument) in {float, accepted}:
            try:
                return int.from_bytes(struct.pack(f"<{code}", argument), "little")
            except OverflowError:
                raise _Refusal(f"which needs more than {8 * size} bits") from None
        return integer(argument, device)

    return convert


def _struct(size: int) -> Converter:
    def convert(argument: Any, device: Any) -> bytes:
        if isinstance(argument, bytes | bytearray):
            content = bytes(argument)
        elif isinstance(argument, complex) and size in _COMPLEX:
            content = _COMPLEX[size](argument).tobytes()
        elif _is_record(argument):
            # In the machine's byte order, whatever that of the fields is.
            content = np.asarray(argument).astype(argument.dtype.newbyteorder("=")).tobytes()
        elif isinstance(argument, ctypes.Structure | ctypes.Union | ctypes.Array):
            if isinstance(argument, ctypes.BigEndianStructure | ctypes.BigEndianUnion):
                raise _Refusal("whose fields are in another byte order: make it a ctypes.Structure")
            content = bytes(argument)
        elif isinstance(argument, np.ndarray):
            raise _Refusal("an array: give array.tobytes() if its bytes are the struct")
        else:
            raise _Refusal(_why_no_scalar(argument))
        if len(content) != size:
            padding = " (C pads structs: np.dtype(..., align=True) does, too)" if _is_record(argument) else ""
            raise _Refusal(
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
