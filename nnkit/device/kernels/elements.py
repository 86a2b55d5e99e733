"""Is what stands in an array what the kernel reads through the pointer? Refused where it certainly is not.

What the code does with the memory says most (`nnkit.vm.prepare.pointers`): only where all of it is numbers of
one kind and size is anything said. But a compiler makes the same of `__int_as_float(bits[i])` as of
`numbers[i]`: integers are refused for floats only if the source declares the pointer as one to floats, or
reinterprets nothing at all. And it makes the same of `word[i] + 1` as of a half of `pair[i]`: integers are
refused for integers of another width only where the kernel's parameter is declared as a pointer to such.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from nnkit.device.cache.disk import DiskCache
from nnkit.device.kernels.parameters import Parameter
from nnkit.device.names.demangle import demangle
from nnkit.device.names.kernels import split_parameters
from nnkit.device.names.types import TypeNames
from nnkit.ptx.ir import Module, PtxError
from nnkit.ptx.parse import parse
from nnkit.vm.build import store
from nnkit.vm.prepare.inline import inline
from nnkit.vm.prepare.pointers import COPY, FLOAT, INTEGER, Element, elements

CACHE_BYTES = 4 << 20
LONGEST = 4 << 20
"""Characters of PTX that are looked at; more would take seconds."""

# What makes numbers of the bits of others: intrinsics, casts of pointers, unions, copies of bytes, assembly,
# a header of the user's own.
_REINTERPRETS = re.compile(
    r"_as_(?:float|double)|hiloint2double|_cast\b|\bunion\b|memcpy|\basm\b|#\s*include\s*$"
    r"|\(\s*(?:\w+[\s:]+)*\w+\s*(?:const\s*)?\*+\s*(?:__restrict__\s*)?\)",
    re.MULTILINE,
)
_QUALIFIERS = re.compile(r"\b(?:const|volatile|__restrict__|__restrict|restrict|__grid_constant__)\b")
_POINTER = re.compile(r"\s*([\w:]+(?:\s+\w+)*?)\s*(?:\*\s*(\w*)|\b(\w+)\s*\[\s*\w*\s*\])\s*")


class ElementTypes:
    """What the arrays behind one kernel's pointers must hold; worked out when it is first asked for."""

    def __init__(
        self,
        kernel: str,
        parameters: Sequence[Parameter],
        ptx: str,
        source: TypeNames | None = None,
        module: Callable[[], Module] | None = None,
    ):
        """`source` is what the CUDA source says, None if only PTX is known; `module` gives the PTX parsed."""
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
        declared = self._declared[place] if self._declared else None
        if declared is not None and np.dtype(declared).kind in "iu":
            return self._not_integer(element, np.dtype(declared), dtype, others)
        return self._not_float(element, declared, dtype, others)

    def _not_float(
        self,
        element: Element,
        declared: str | None,
        dtype: np.dtype[Any],
        others: Sequence[np.dtype[Any]] | None,
    ) -> str:
        real = np.dtype(f"f{element.size}")
        if element.kind == INTEGER or element.size == 2 or dtype in (real, np.dtype(f"c{2 * element.size}")):
            return ""
        certain = declared == f"f{element.size}"
        moved_alike = others is not None and (not others or dtype in others)
        if element.kind == COPY and (not certain or moved_alike):
            # A kernel that copies floats copies anything of their size, within an array or to another.
            return ""
        if self._source is None:
            certain = certain or dtype.kind in "fc"
        elif declared is None:
            certain = not self._reinterprets
        return _words(real) if certain else ""

    def _not_integer(
        self,
        element: Element,
        wanted: np.dtype[Any],
        dtype: np.dtype[Any],
        others: Sequence[np.dtype[Any]] | None,
    ) -> str:
        """Bits of floats are looked at as unsigned integers of any width, and as signed ones of their own."""
        if wanted.itemsize in (1, dtype.itemsize) or element.kind == FLOAT:
            return ""
        if dtype.kind not in "iub" and (wanted.kind == "u" or element.kind == COPY):
            return ""
        sizes = None if others is None else {other.itemsize for other in others}
        moved_alike = sizes is not None and (not sizes or dtype.itemsize in sizes)
        if element.size != wanted.itemsize or (element.kind == COPY and moved_alike):
            return ""
        return _words(wanted)

    def _elements(self) -> list[Element | None]:
        if self._known is None:
            found = self._find()
            self._known = [found.get(parameter.name) for parameter in self._parameters]
            if any(self._known):
                self._declared = self._signature()
                self._reinterprets = self._source is None or bool(_REINTERPRETS.search(self._source.text))
        return self._known

    def _signature(self) -> list[str | None]:
        """What each parameter points to, in NumPy's code; None where it is no number, or cannot be told."""
        types, count = self._source or TypeNames(""), len(self._parameters)
        words = _split((split_parameters(demangle(self._kernel))[1] or "")[1:-1])
        if len(words) != count:
            # The names of extern "C" tell nothing.
            words = _declared(types.code, self._kernel)
        if len(words) != count:
            return [None] * count
        return [_pointee(part, types) for part in words]

    def _find(self) -> dict[str, Element]:
        if len(self._ptx) > LONGEST:
            return {}
        cache = DiskCache("elements", CACHE_BYTES)
        key = store.key("elements by kind", self._kernel, self._ptx)
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


def _words(wanted: np.dtype[Any]) -> str:
    return (
        f"but the kernel reads or writes {wanted.name} through it; convert it with astype({wanted.name!r}), "
        f"or give array.view({wanted.name!r}) if its bytes are meant"
    )


def _declared(text: str, kernel: str) -> list[str]:
    """The kernel's parameters as the source declares them; nothing where that cannot be told."""
    name = _plain(kernel)
    found = [match for match in re.finditer(rf"\b{re.escape(name)}\s*\(", text) if _is_kernel(text, match)]
    lists = {_parenthesised(text, match.end()) for match in found}
    return _split(lists.pop()) if len(lists) == 1 else []


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


def _pointee(part: str, types: TypeNames) -> str | None:
    found = _POINTER.fullmatch(_QUALIFIERS.sub(" ", part))
    known = types.types(found[1]) if found else set()
    if found and found[1].split() == ["void"]:
        return "V1"
    scalar = known.pop() if len(known) == 1 else None
    return scalar[0] if scalar is not None and not scalar[1] else None
