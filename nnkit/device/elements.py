"""Is what stands in an array what the kernel reads through the pointer? Refused where it certainly is not.

What the code does with the memory says most (`nnkit.ptx.pointers`): only where all of it is floats of one
size is anything said. But a compiler makes the same of `__int_as_float(bits[i])` as of `numbers[i]`: integers
are refused only if the source declares the pointer as one to floats, or reinterprets nothing at all.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from nnkit.device.cache import DiskCache
from nnkit.device.parameters import Parameter
from nnkit.ptx.inline import inline
from nnkit.ptx.ir import Module, PtxError
from nnkit.ptx.parse import parse
from nnkit.ptx.pointers import Element, elements
from nnkit.vm import store

CACHE_BYTES = 4 << 20
LONGEST = 4 << 20
"""Characters of PTX that are looked at; more would take seconds."""

_NOISE = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.DOTALL)
# What makes numbers of the bits of others: intrinsics, casts of pointers, unions, copies of bytes, assembly,
# a header of the user's own.
_REINTERPRETS = re.compile(
    r"_as_(?:float|double)|hiloint2double|_cast\b|\bunion\b|memcpy|\basm\b|#\s*include\s*$"
    r"|\(\s*(?:\w+[\s:]+)*\w+\s*(?:const\s*)?\*+\s*(?:__restrict__\s*)?\)",
    re.MULTILINE,
)
_QUALIFIERS = re.compile(r"\b(?:const|volatile|__restrict__|__restrict|restrict|__grid_constant__)\b")
_POINTER = re.compile(r"\s*([\w:]+(?:\s+\w+)*?)\s*(?:\*\s*(\w*)|\b(\w+)\s*\[\s*\w*\s*\])\s*")

_SIZES = {"float": 4, "double": 8}
_BYTES = frozenset(
    (
        *("void", "char", "signed char", "unsigned char", "int8_t", "uint8_t", "short", "unsigned short"),
        *("int", "unsigned", "unsigned int", "long", "unsigned long", "long long", "unsigned long long"),
        *("int32_t", "uint32_t", "int64_t", "uint64_t", "size_t", "bool"),
    )
)


class ElementTypes:
    """What the arrays behind one kernel's pointers must hold; worked out when it is first asked for."""

    def __init__(
        self,
        kernel: str,
        parameters: Sequence[Parameter],
        ptx: str,
        source: str | None = None,
        module: Callable[[], Module] | None = None,
    ):
        """`source` is the CUDA text, None if only PTX is known; `module` gives the PTX parsed."""
        self._kernel = kernel
        self._parameters = parameters
        self._ptx = ptx
        self._source = source
        self._module = module or (lambda: parse(ptx))
        self._known: list[Element | None] | None = None
        self._declared: list[str | None] = []
        self._reinterprets = True

    def refusal(self, place: int, dtype: np.dtype[Any], others: Sequence[np.dtype[Any]] | None = None) -> str:
        """Why an array of that dtype is none for the parameter; "" if it may be one.

        `others` are the dtypes of the launch's other arrays; None stands for any that there may be.
        """
        element = self._elements()[place]
        if element is None or _is_bytes(dtype):
            return ""
        real = np.dtype(f"f{element.size}")
        if dtype in (real, np.dtype(f"c{2 * element.size}")):
            return ""
        declared = self._declared[place] if self._declared else None
        certain = _SIZES.get(declared or "") == element.size
        moved_alike = others is not None and (not others or dtype in others)
        if not element.calculated and (not certain or moved_alike):
            # A kernel that copies floats copies anything of their size, within an array or to another.
            return ""
        if self._source is None:
            certain = dtype.kind in "fc"
        elif declared is None:
            certain = not self._reinterprets
        if not certain:
            return ""
        return (
            f"but the kernel reads or writes {real.name} through it; convert it with astype({real.name!r}), "
            f"or give array.view({real.name!r}) if its bytes are meant"
        )

    def _elements(self) -> list[Element | None]:
        if self._known is None:
            found = self._find()
            self._known = [found.get(parameter.name) for parameter in self._parameters]
            if self._source is not None and any(self._known):
                text = _NOISE.sub(lambda noise: " " if noise[0][0] != '"' else "", self._source)
                self._declared = _declared(text, self._kernel, len(self._parameters))
                self._reinterprets = _REINTERPRETS.search(text) is not None
        return self._known

    def _find(self) -> dict[str, Element]:
        if len(self._ptx) > LONGEST:
            return {}
        cache = DiskCache("elements", CACHE_BYTES)
        key = store.key("elements", self._kernel, self._ptx)
        if (kept := cache.get(key)) is not None:
            return {name: Element(**fields) for name, fields in json.loads(kept).items()}
        try:
            found = elements(inline(self._module(), self._kernel))
        except PtxError:
            found = {}
        cache.put(key, json.dumps({name: asdict(element) for name, element in found.items()}).encode())
        return found


def _is_bytes(dtype: np.dtype[Any]) -> bool:
    """Whether an array of that dtype is a piece of memory for whatever a kernel makes of it."""
    return dtype.kind in "VS" or (dtype.kind in "iu" and dtype.itemsize == 1)


def _declared(text: str, kernel: str, count: int) -> list[str | None]:
    """What the source says that each parameter points to: a type's name, None where it cannot be told."""
    name = _plain(kernel)
    found = [match for match in re.finditer(rf"\b{re.escape(name)}\s*\(", text) if _is_kernel(text, match)]
    lists = {_parenthesised(text, match.end()) for match in found}
    if len(lists) != 1:
        return [None] * count
    parts = _split(lists.pop())
    return [_pointee(part) for part in parts] if len(parts) == count else [None] * count


def _plain(kernel: str) -> str:
    """The name that the source has for a mangled one (Itanium C++ ABI, 5.1.2); another name as it is."""
    if not kernel.startswith("_Z"):
        return kernel
    rest, name = kernel[2:].removeprefix("N").lstrip("KVr"), ""
    while number := re.match(r"\d+", rest):
        length = int(number[0])
        name, rest = rest[number.end() :][:length], rest[number.end() + length :]
    return name or kernel


def _is_kernel(text: str, match: "re.Match[str]") -> bool:
    """Whether __global__ stands before the name, with nothing between them that ends a declaration."""
    start = max(text.rfind(end, 0, match.start()) for end in (";", "}", "{"))
    return "__global__" in text[start + 1 : match.start()]


def _parenthesised(text: str, start: int) -> str:
    depth = 1
    for position in range(start, len(text)):
        depth += (text[position] == "(") - (text[position] == ")")
        if not depth:
            return text[start:position]
    return ""


def _split(text: str) -> list[str]:
    """The parts between commas that stand in no brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "(<[") - (letter in ")>]")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part for part in parts if part.strip()]


def _pointee(part: str) -> str | None:
    found = _POINTER.fullmatch(_QUALIFIERS.sub(" ", part))
    name = " ".join(found[1].split()) if found else ""
    return name if name in _SIZES or name in _BYTES else None
