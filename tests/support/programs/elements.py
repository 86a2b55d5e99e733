"""Element types of random programs, the same in CUDA C++ and in Python: an element is a tuple of numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Number = int | float
Cell = tuple[Number, ...]


@dataclass(frozen=True)
class Element:
    """A type: how C calls it and its components, what NumPy calls a component, and how many there are."""

    name: str
    word: str
    dtype: str
    count: int = 1

    @property
    def size(self) -> int:
        """Bytes."""
        return np.dtype(self.dtype).itemsize * self.count

    @property
    def maker(self) -> str:
        """The C function that makes an element of an integer."""
        return "made_" + self.name.replace(" ", "_")

    @property
    def fields(self) -> list[str]:
        """How the components of a value are reached."""
        return [""] if self.count == 1 else [f".{letter}" for letter in "xyzw"[: self.count]]

    def rounded(self, value: Number) -> Number:
        """What a component holds when that is assigned; sums of floats are float64 first, which is exact."""
        kind = np.dtype(self.dtype)
        if kind.kind == "f":
            return float(kind.type(value))
        bits, low = 8 * kind.itemsize, -(1 << 8 * kind.itemsize - 1) if kind.kind == "i" else 0
        return (int(value) - low) % (1 << bits) + low

    def cell(self, value: int) -> Cell:
        """The element that `maker` makes of a number in C."""
        return tuple(self.rounded(value + k) for k in range(self.count))

    def array(self, cells: list[Cell]) -> npt.NDArray[Any]:
        """Elements as an array of shape (elements, components)."""
        return np.array(cells, self.dtype).reshape(len(cells), self.count)

    def functions(self) -> dict[str, Callable[..., Any]]:
        """The device functions' twins."""
        return {
            "made": self.cell,
            "sum": lambda a, b: tuple(self.rounded(p + q) for p, q in zip(a, b, strict=True)),
            "less": lambda a, b: tuple(self.rounded(p - q) for p, q in zip(a, b, strict=True)),
            "low": lambda a, b: tuple(min(p, q) for p, q in zip(a, b, strict=True)),
            "high": lambda a, b: tuple(max(p, q) for p, q in zip(a, b, strict=True)),
            "before": lambda a, b: a[0] < b[0],
        }

    def cuda(self) -> str:
        """The device functions; integers are added without sign, so that they wrap."""
        own, word = self.name, self.word
        wide = word if self.dtype[0] == "f" else "unsigned long long"

        def each(text: str) -> str:
            lines = [f"r{f} = ({word})({text.format(f=f)});" for f in self.fields]
            return f"{{ {own} r; {' '.join(lines)} return r; }}"

        head, pair = f"static __device__ {own}", f"({own} a, {own} b)"
        made = [f"r{f} = ({word})(v + {k});" for k, f in enumerate(self.fields)]
        first = self.fields[0]
        return "\n".join(
            [
                f"{head} {self.maker}(int v) {{ {own} r; {' '.join(made)} return r; }}",
                f"{head} sum{pair} {each(f'({wide})a{{f}} + ({wide})b{{f}}')}",
                f"{head} less{pair} {each(f'({wide})a{{f}} - ({wide})b{{f}}')}",
                f"{head} low{pair} {each('b{f} < a{f} ? b{f} : a{f}')}",
                f"{head} high{pair} {each('a{f} < b{f} ? b{f} : a{f}')}",
                f"static __device__ bool before{pair} {{ return a{first} < b{first}; }}",
                f"static __device__ __noinline__ {own} peek(const {own}* p, long long i) {{ return p[i]; }}",
                f"static __device__ __noinline__ void poke({own}* p, int i, {own} v) {{ p[i] = v; }}",
            ]
        )


_WORDS = {
    **{"signed char": "i1", "unsigned char": "u1", "short": "i2", "unsigned short": "u2"},
    **{"int": "i4", "unsigned": "u4", "long long": "i8", "unsigned long long": "u8"},
    **{"float": "f4", "double": "f8"},
}
_VECTORS = {
    **{"char2": "signed char", "uchar4": "unsigned char", "short2": "short", "ushort4": "unsigned short"},
    **{"int2": "int", "int4": "int", "uint2": "unsigned", "float2": "float", "float4": "float"},
    **{"double2": "double", "longlong2": "long long"},
}
ELEMENTS = {name: Element(name, name, dtype) for name, dtype in _WORDS.items()}
ELEMENTS |= {name: Element(name, word, _WORDS[word], int(name[-1])) for name, word in _VECTORS.items()}

CUDA = "\n".join(e.cuda() for e in ELEMENTS.values())
