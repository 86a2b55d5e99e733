"""The `__constant__`, `__device__` and `__managed__` variables of a module, as arrays of its device.

PTX tells a variable's size, and its type only where that is a single number: arrays are bytes there. So the
type comes from the declaration in the CUDA source, where there is one and it says so plainly.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from nnkit.device.demangle import is_reserved, readable_name
from nnkit.device.kernel_names import UNNAMED
from nnkit.errors import NnkitError, UsageError, unknown_name
from nnkit.ptx.ir import SIZES, Variable

Found = TypeVar("Found")

_NOISE = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.DOTALL)
_WORDS = (
    r"(?:(?:__(?:device|constant|managed)__|static|extern|const|volatile|inline|constexpr"
    r"|alignas\s*\([^)]*\)|__align__\s*\([^)]*\))\s+)"
)
_SCALARS = {
    "float": "f4",
    "double": "f8",
    "bool": "?",
    "char": "i1",
    "signed char": "i1",
    "unsigned char": "u1",
    "short": "i2",
    "unsigned short": "u2",
    "int": "i4",
    "signed": "i4",
    "unsigned": "u4",
    "unsigned int": "u4",
    "long": "i8",
    "unsigned long": "u8",
    "long long": "i8",
    "unsigned long long": "u8",
    "size_t": "u8",
    "half": "f2",
    "__half": "f2",
    **{f"{sign}int{bits}_t": f"{sign or 'i'}{bits // 8}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
_VECTORS = {
    **{"float": "f4", "double": "f8", "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2"},
    **{"int": "i4", "uint": "u4", "long": "i8", "ulong": "u8", "longlong": "i8", "ulonglong": "u8"},
}
_NUMBER = re.compile(r"\s*(0[xX][0-9a-fA-F]+|\d+)[uUlL]*\s*")


class VariableTable:
    """The variables that a module declares, by the names of the source, with their types."""

    def __init__(self, declared: Iterable[Variable], text: str | None = None):
        """`text` is the CUDA source, if it is known."""
        self._declared = {
            v.name: v
            for v in declared
            if v.space in ("global", "const") and v.size and not UNNAMED.match(v.name)
        }
        self._text = None if text is None else _NOISE.sub(" ", text)
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
        return _layout(variable, readable_name(variable.name), self._text)


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


def _layout(variable: Variable, name: str, text: str | None) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype: those of the declaration in the source if it is understood, else those of the PTX."""
    plain = re.sub(r"<.*>", "", name).rpartition("::")[2]
    written = [each for each in _declarations(text or "", plain) if not _is_another(variable, each[0])]
    found = {_declaration(variable, *each) for each in written}
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


def _declarations(text: str, name: str) -> list[tuple[str, str]]:
    """Type and extents, as they are written, of every declaration of that name."""
    pattern = re.compile(
        rf"__(?:device|constant|managed)__\s+{_WORDS}*([\w:]+(?:\s+\w+)*?)\s+{_WORDS}*{re.escape(name)}"
        r"\s*((?:\[[^\]]*\]\s*)*)(?=[=;,{])"
    )
    return pattern.findall(text)


def _declaration(variable: Variable, kind: str, extents: str) -> tuple[tuple[int, ...], str] | None:
    """Shape and dtype that a declaration gives, if they are understood and fill the variable."""
    code, inner = _element(kind)
    if code is None:
        return None
    count = variable.size // (np.dtype(code).itemsize * math.prod(inner))
    lengths = [int(found[1], 0) if (found := _NUMBER.fullmatch(part)) else 0 for part in _parts(extents)]
    if lengths.count(0) == 1:
        # The one that is written as a name, or not at all, follows from the size.
        rest = math.prod(length for length in lengths if length)
        lengths = [length or count // rest for length in lengths]
    elif lengths.count(0):
        lengths = [count]
    return ((*lengths, *inner), code) if math.prod(lengths) == count else None


def _element(kind: str) -> tuple[str | None, tuple[int, ...]]:
    """NumPy's code for a type as it is written, and the axes of a vector; None for one that is not known."""
    kind = " ".join(word for word in kind.split() if word not in ("const", "volatile", "static"))
    kind = re.sub(r"^(unsigned |)(short|long|long long) int$", r"\1\2", kind)
    if vector := re.fullmatch(r"([a-z]+)([1-4])", kind):
        return _VECTORS.get(vector[1]), (int(vector[2]),) if vector[2] != "1" else ()
    return _SCALARS.get(kind.removeprefix("std::")), ()


def _is_another(variable: Variable, kind: str) -> bool:
    """Whether a declaration of that type cannot be this variable's: of another namespace, or left out."""
    code, inner = _element(kind)
    if code is None:
        return False
    dtype = np.dtype(code)
    tells = variable.type[0] in "fus"  # PTX says .b8 for all arrays.
    return (
        variable.size % (dtype.itemsize * math.prod(inner)) != 0
        or dtype.alignment > variable.align
        or (tells and (variable.type[0] == "f") != (dtype.kind == "f"))
    )


def _parts(extents: str) -> list[str]:
    return re.findall(r"\[([^\]]*)\]", extents)


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
