"""What a kernel takes, read from its PTX: the parameters of every entry and its limit of threads.

Syntax: the PTX ISA, sections "Kernel Function Parameters", ".entry", ".maxntid" and ".reqntid".
"""

import math
import re
from collections.abc import Container
from dataclasses import dataclass

from nnkit.errors import CompileError
from nnkit.ptx.tokens import integer


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


# Strings go too: the name of a file may hold what looks like a comment or an entry.
_NOISE = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
_ENTRY = re.compile(r"\.entry\s+([A-Za-z_$%][\w$]*)\s*(?:\(([^)]*)\))?([^{;]*)")
_PARAMETER = re.compile(
    r"""\s* \.param \s*
    (?: \.align \s+ (?P<align>\d+) \s* )?
    \. (?P<type>[a-z]\w*) \s*
    (?P<ptr> \.ptr \b \s* (?: \.(?:const|global|local|shared) \b \s* )? (?: \.align \s+ \d+ \s* )? )?
    (?P<name> [A-Za-z_$%][\w$]* ) \s*
    (?: \[ \s* (?P<count>0[xX][0-9a-fA-F]+ | \d+) \s* \] )? \s*""",
    re.VERBOSE,
)
_THREADS = re.compile(r"\.(maxntid|reqntid)\s+(\w+(?:\s*,\s*\w+)*)")

_KINDS = {"u": "integer", "s": "integer", "f": "float", "b": "bits"}
_SIZES = {
    **{f"{letter}{bits}": bits // 8 for letter in "usb" for bits in (8, 16, 32, 64)},
    **{f"f{bits}": bits // 8 for bits in (16, 32, 64)},
}


def parameters(ptx: str, kernels: Container[str] | None = None) -> dict[str, tuple[Parameter, ...]]:
    """The parameters of every kernel in the text, or of those named, by the kernel's name in PTX.

    Raises CompileError for a parameter of a type that no kernel argument can have.
    """
    return {
        name: tuple(_parameter(text, name) for text in inside.split(",") if text.strip())
        for name, inside, _ in _entries(ptx)
        if kernels is None or name in kernels
    }


def thread_limits(ptx: str) -> dict[str, int]:
    """The most threads of a block for every kernel that sets them with .maxntid or .reqntid."""
    return {
        name: min(math.prod(_extent(axes)) for _, axes in found)
        for name, _, directives in _entries(ptx)
        if (found := _THREADS.findall(directives))
    }


def required_blocks(ptx: str) -> dict[str, tuple[int, int, int]]:
    """The block that every kernel with .reqntid must be launched with: threads along x, y and z."""
    return {
        name: _extent(axes)
        for name, _, directives in _entries(ptx)
        for directive, axes in _THREADS.findall(directives)
        if directive == "reqntid"
    }


def _extent(axes: str) -> tuple[int, int, int]:
    """What is not named is 1."""
    x, y, z = (*(int(axis, 0) for axis in axes.split(",")), 1, 1)[:3]
    return x, y, z


def _entries(ptx: str) -> list[tuple[str, str, str]]:
    """Every entry's name, parameters and directives."""
    return _ENTRY.findall(_NOISE.sub(" ", ptx))


def _parameter(text: str, kernel: str) -> Parameter:
    found = _PARAMETER.fullmatch(text)
    size = _SIZES.get(found["type"]) if found else None
    if found is None or size is None:
        raise CompileError(
            f"kernel {kernel}: the parameter {' '.join(text.split())!r} is not understood; "
            "numbers, pointers and structs passed by value are"
        )
    align = int(found["align"] or size)
    if found["count"] is not None:
        return Parameter(found["name"], size * integer(found["count"]), align, "struct")
    kind = "pointer" if found["type"] in {"u64", "b64"} else _KINDS[found["type"][0]]
    return Parameter(found["name"], size, align, kind, marked=found["ptr"] is not None)
