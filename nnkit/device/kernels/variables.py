"""The `__constant__`, `__device__` and `__managed__` variables of a module, as arrays of its device.

PTX tells a variable's size, and its type only where that is a single number: arrays are bytes there. So the
type comes from the declaration in the CUDA source, where there is one and it says so plainly.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from nnkit.device.names.demangle import is_reserved, readable_name
from nnkit.device.names.kernels import UNNAMED
from nnkit.device.names.types import Scalar, TypeNames
from nnkit.errors import NnkitError, UsageError, unknown_name
from nnkit.ptx.ir import SIZES, Variable

Found = TypeVar("Found")

_MARK = re.compile(r"\b__(?:device|constant|managed)__(?!\w)")
_ALIGNED = re.compile(r"\b(?:alignas|__align__)\s*\([^()]*\)")
_TEMPLATE = re.compile(r"^\s*template\s*<[^<>]*>")
_WORDS = frozenset(
    (
        *("__device__", "__constant__", "__managed__", "static", "extern", "const", "volatile", "inline"),
        *("constexpr", "constinit"),
    )
)


class VariableTable:
    """The variables that a module declares, by the names of the source, with their types."""

    def __init__(self, declared: Iterable[Variable], source: TypeNames | None = None):
        """`source` is what the CUDA source says, if it is known."""
        self._declared = {
            v.name: v
            for v in declared
            if v.space in ("global", "const") and v.size and not UNNAMED.match(v.name)
        }
        self._types = source or TypeNames("")
        readable = {name: readable_name(name) for name in self._declared}
        spelled = list(readable.values())
        # Two that read the same keep what the PTX calls them.
        self.names = {name if spelled.count(words) > 1 else words: name for name, words in readable.items()}
        # CUDA's headers have hundreds, which nobody asks for.
        self.listed = [words for words, name in self.names.items() if not is_reserved(name)]

    def find(self, name: object) -> Variable:
        """The variable of that name, which may be given without its namespaces. Raises UsageError."""
        if not isinstance(name, str):
            raise unknown_name("variable", name, self.listed)
        if name in self._declared:
            return self._declared[name]
        wanted = name.replace(" ", "").removeprefix("::")
        for short in (False, True):
            found = [
                own
                for words, own in self.names.items()
                if (words.rpartition("::")[2] if short else words).replace(" ", "") == wanted
            ]
            if len(found) > 1:
                candidates = ", ".join(
                    map(repr, sorted(words for words in self.names if self.names[words] in found))
                )
                raise UsageError(f"there are {len(found)} variables {name!r}: ask for one of {candidates}")
            if found:
                return self._declared[found[0]]
        raise unknown_name("variable", name, self.listed)

    def layout(self, variable: Variable) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and dtype of a variable."""
        return _layout(variable, readable_name(variable.name), self._types)


class Variables(Mapping[str, Found]):
    """A module's variables as arrays of its device, which keep the module alive.

    Those with reserved names, such as the constants of CUDA's headers, are there but not listed.
    """

    def __init__(
        self, table: VariableTable, make: Callable[[Variable, tuple[int, ...], np.dtype[Any]], Found]
    ):
        """`make` gives the array for a variable, a shape and a dtype."""
        self._table = table
        self._make = make

    def __getitem__(self, name: str) -> Found:
        """The array of that name; raises UsageError for one that is not there, or not the only one."""
        variable = self._table.find(name)
        return self._make(variable, *self._table.layout(variable))

    def __setitem__(self, name: str, values: object) -> None:
        """Refuses: what is written is the array's content."""
        raise UsageError(
            f"a module's variable is not replaced: write to it, variables[{name!r}].write(values)"
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.listed)

    def __len__(self) -> int:
        return len(self._table.listed)

    def __contains__(self, name: object) -> bool:
        try:
            self._table.find(name)
        except UsageError:
            return False
        return True

    def get(self, name: str, default: Any = None) -> Any:
        """The array of that name, or the default if there is none."""
        try:
            return self[name]
        except UsageError:
            return default

    def __repr__(self) -> str:
        return f"Variables({', '.join(self)})"


def _layout(variable: Variable, name: str, types: TypeNames) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype: those of the declaration in the source if it is understood, else those of the PTX."""
    plain = re.sub(r"<.*>", "", name).rpartition("::")[2]
    found: set[tuple[tuple[int, ...], str] | None] = set()
    for written, extents in _declarations(types.code, plain):
        lengths = [types.number(part) for part in re.findall(r"\[([^\]]*)\]", extents)]
        scalars = types.types(written)
        # Of the types that a name may stand for, those count that fill the variable.
        fitting = {_filled(variable, each, lengths) for each in scalars if each and _may_be(variable, each)}
        found |= fitting if len(fitting) < 2 else fitting - {None}
        if None in scalars:
            found.add(None)
    if len(found) == 1 and (known := found.pop()) is not None:
        return known[0], np.dtype(known[1])
    kind = {"b": "u", "s": "i"}.get(variable.type[0], variable.type[0])
    size = SIZES.get(variable.type, 1)
    dtype = np.dtype(f"{kind}{size}") if f"{kind}{size}" in _KNOWN and variable.size % size == 0 else None
    if dtype is None or (variable.type == "b8" and variable.size > 1):
        return (variable.size,), np.dtype(np.uint8)
    count = variable.size // size
    return () if count == 1 else (count,), dtype


_KNOWN = frozenset(("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"))


def _declarations(code: str, name: str) -> Iterator[tuple[str, str]]:
    """Type and extents, as they are written, of every variable of that name that lies on the device."""
    for mark in _MARK.finditer(code):
        start = max(code.rfind(end, 0, mark.start()) for end in ";{}") + 1
        parts = _declarators(code, start)
        first = re.fullmatch(rf"([\w:\s]*?)([\s*]+){_NAMED}", parts[0] if parts else "")
        if first is None:
            continue
        kind = " ".join(word for word in first[1].split() if word not in _WORDS)
        rest = [re.fullmatch(rf"(\**)\s*{_NAMED}", part) for part in parts[1:]]
        declared = [(first[2], first[3], first[4]), *(found.groups() for found in rest if found)]
        for stars, called, extents in declared:
            if called == name and "*" not in stars:
                yield kind, extents


_NAMED = r"(\w+)((?:\s*\[[^\]]*\])*)"


def _declarators(code: str, start: int) -> list[str]:
    """What a declaration declares, each without its initial value; the first has the type before it.

    Nothing for a function.
    """
    end = code.find(";", start)
    head = _TEMPLATE.sub("", _ALIGNED.sub(" ", code[start : None if end < 0 else end]))
    if "(" in re.split(r"[=\[{,]", head, maxsplit=1)[0]:
        return []
    parts, depth, value = [""], 0, False
    for letter in _ALIGNED.sub(" ", _TEMPLATE.sub("", code[start : start + _LONGEST])):
        if not depth and letter == ";":
            return [" ".join(part.split()) for part in parts]
        if not depth and letter == ",":
            parts.append("")
            value = False
            continue
        value = value or (not depth and letter in "={")
        depth += (letter in "([{") - (letter in ")]}")
        parts[-1] += "" if value else letter
    return []


_LONGEST = 1 << 16
"""Characters of a declaration, initial values among them."""


def _may_be(variable: Variable, scalar: Scalar) -> bool:
    """Whether a declaration of that type can be this variable's, and not one of another namespace."""
    code, inner = scalar
    dtype = np.dtype(code)
    tells = variable.type[0] in "fus"  # PTX says .b8 for all arrays.
    return (
        variable.size % (dtype.itemsize * math.prod(inner)) == 0
        and dtype.alignment <= variable.align
        and not (tells and (variable.type[0] == "f") != (dtype.kind == "f"))
    )


def _filled(
    variable: Variable, scalar: Scalar, lengths: Sequence[int | None]
) -> tuple[tuple[int, ...], str] | None:
    """Shape and dtype that a declaration gives, if they fill the variable; None for a length not known."""
    code, inner = scalar
    count = variable.size // (np.dtype(code).itemsize * math.prod(inner))
    known = [length for length in lengths if length is not None and length > 0]
    if len(known) == len(lengths) - 1:
        # The one that is not known, or not written at all, follows from the size.
        rest = math.prod(known)
        shape = [length if length in known else count // rest for length in lengths]
    else:
        shape = known if len(known) == len(lengths) else [count]
    return ((*shape, *inner), code) if math.prod(shape) == count else None


def described(module: Any, device: str, templates: Sequence[str]) -> str:
    """A module in a line: its kernels, templates of kernels, variables."""
    try:
        variables = list(module.variables)
    except NnkitError:
        variables = []
    parts = [f"kernels {', '.join(module.kernels) or 'none'}"]
    parts += [f"templates {', '.join(templates)}"] if templates else []
    parts += [f"variables {', '.join(variables)}"] if variables else []
    return f"<module on {device}: {'; '.join(parts)}>"
