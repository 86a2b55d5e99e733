"""What a kernel takes: its parameters and the blocks that it allows, as its PTX declares them.

Source: the PTX ISA, sections "Kernel Function Parameters", ".maxntid" and ".reqntid".
"""

import math
from collections.abc import Container
from dataclasses import dataclass

from nnkit.errors import CompileError
from nnkit.ptx.interface import Interface
from nnkit.ptx.ir import SIZES, PtxError, Variable


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel; size and alignment in bytes.

    `kind` is "pointer" (.u64 and .b64, which PTX uses for pointers and 64-bit integers alike), "integer",
    "float", "bits" (.b8, .b16, .b32: any kind of that size) or "struct" (an array of bytes). `marked` tells
    a pointer that PTX marks as such with .ptr: it can be no integer.
    """

    name: str
    size: int
    align: int
    kind: str
    marked: bool = False


_KINDS = {"u": "integer", "s": "integer", "f": "float", "b": "bits"}
_TYPES = frozenset(
    (*(f"{letter}{bits}" for letter in "usb" for bits in (8, 16, 32, 64)), "f16", "f32", "f64")
)


def parameters(module: Interface, kernels: Container[str] | None = None) -> dict[str, tuple[Parameter, ...]]:
    """The parameters of every kernel of a module, or of those named, by the kernel's name in PTX.

    Raises CompileError for a parameter of a type that no kernel argument can have.
    """
    found = {}
    for name, kernel in module.kernels.items():
        if kernels is None or name in kernels:
            try:
                found[name] = tuple(map(_parameter, kernel.parameters()))
            except PtxError as error:
                raise CompileError(
                    f"kernel {name}: {error}; numbers, pointers and structs passed by value are"
                ) from None
    return found


def thread_limits(module: Interface) -> dict[str, int]:
    """The most threads of a block for every kernel that sets them with .maxntid or .reqntid."""
    return {
        name: min(map(math.prod, blocks))
        for name, kernel in module.kernels.items()
        if (blocks := kernel.blocks(".maxntid", ".reqntid"))
    }


def required_blocks(module: Interface) -> dict[str, tuple[int, int, int]]:
    """The block that every kernel with .reqntid must be launched with: threads along x, y and z."""
    return {
        name: blocks[-1] for name, kernel in module.kernels.items() if (blocks := kernel.blocks(".reqntid"))
    }


def _parameter(declared: Variable) -> Parameter:
    if declared.type not in _TYPES:
        raise PtxError(f"the parameter '.param .{declared.type} {declared.name}' is not understood")
    if declared.is_array:
        return Parameter(declared.name, declared.size, declared.align, "struct")
    kind = "pointer" if declared.type in {"u64", "b64"} else _KINDS[declared.type[0]]
    return Parameter(declared.name, SIZES[declared.type], declared.align, kind, declared.pointer)
