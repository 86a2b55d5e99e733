"""The arguments of a launch, checked against the kernel's parameters and packed as the kernel reads them.

Used by the devices `virtual` and `cuda` on every launch, so what can be decided before is: one converter is
chosen for each parameter when the kernel is loaded.
"""

import ctypes
import struct
from collections.abc import Sequence
from typing import Any, Generic

import numpy as np

from nnkit.device.arrays.inputs import in_words
from nnkit.device.kernels.converters import (
    FLOAT_CODES,
    INTEGER_CODES,
    ArrayT,
    Borrowed,
    Borrower,
    Refusal,
    converter,
    plain_value,
)
from nnkit.device.kernels.elements import ElementTypes
from nnkit.device.kernels.parameters import Parameter
from nnkit.errors import LaunchError, NnkitError, reason

BUFFER_ALIGN = 64
"""As much as PTX ever asks of a parameter, in bytes."""


class Packer(Generic[ArrayT]):
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
        self._converters = [converter(parameter) for parameter in self.parameters]
        self.borrowed: dict[int, ArrayT] = {}
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

    def pack(self, args: Sequence[Any], device: Borrower[ArrayT]) -> "ctypes.Array[ctypes.c_char]":
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
            if Borrowed in map(type, values):
                self.borrowed = {i: value.array for i, value in enumerate(values) if type(value) is Borrowed}
                values = [value.array.address if type(value) is Borrowed else value for value in values]
            for place, dtype in self._dtypes.items():
                argument = self.borrowed.get(place, args[place]) if self.borrowed else args[place]
                if argument is not None and getattr(argument, "dtype", None) is not dtype:
                    self._check_dtype(place, args)
        except Refusal as refusal:
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

    def take_borrowed(self) -> list[ArrayT]:
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
    return (FLOAT_CODES if parameter.kind == "float" else INTEGER_CODES)[parameter.size]


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
