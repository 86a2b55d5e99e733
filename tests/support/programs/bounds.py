"""Random programs in which one known thread, if it is told to, reaches out of an array by a known distance.

Told to or not, nothing else goes wrong in them: the thread must be named, with an address that it touched.
"""

import random
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnkit.errors import KernelError
from tests.support.programs.elements import ELEMENTS, Element
from tests.support.programs.neighbours import BLOCKS, SHARED, Block
from tests.support.sources import report

SPACES = ("first", "dynamic", "global", "constant", "param", "local")
REPORTED = {"first": "shared", "dynamic": "shared", "local": "local", "param": "param"}


@dataclass(frozen=True)
class Reach:
    """A kernel NAME(in, out, all, n[, given]); thread n of the grid goes astray, none where n is -1."""

    name: str
    element: Element
    block: Block
    grid: int
    space: str
    length: int
    """Of the array, in elements."""
    bad: int
    """The thread's number in the grid."""
    first: int
    """The first cell that it touches."""
    count: int
    """How many cells each thread touches, one after another."""
    writes: bool
    generic: bool
    cuda: str

    @property
    def threads(self) -> int:
        """Of a block."""
        return self.block[0] * self.block[1] * self.block[2]

    @property
    def outside(self) -> list[int]:
        """The cells of the stray thread that do not exist."""
        cells = range(self.first, self.first + self.count)
        return [cell for cell in cells if not 0 <= cell < self.length]

    @property
    def culprit(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Block and thread."""
        b, t = divmod(self.bad, self.threads)
        x, y, _ = self.block
        return (b, 0, 0), (t % x, t // x % y, t // (x * y))

    @property
    def dynamic_bytes(self) -> int:
        """Of shared memory that the launch must give."""
        return self.length * self.element.size if self.space == "dynamic" else 0

    def misreported(self, error: KernelError, start: int) -> str:
        """What an error says wrongly, or ""; the array begins at the address `start` of its space."""
        found, size, space = report(error), self.element.size, REPORTED.get(self.space, "global")
        if (found.block, found.thread) != self.culprit:
            return f"it was block and thread {self.culprit}, not {error}"
        words = re.match(
            r"(load|store) of (\d+) bytes at (\w+) address (0x\w+) is out of bounds: ", found.what
        )
        if not words:
            return f"it does not say what was done where: {error}"
        if (words[1] == "store") != self.writes:
            return f"a {'store' if self.writes else 'load'} is called otherwise: {error}"
        # What is read through a pointer that may lead anywhere is called global.
        if words[3] != space and (self.space, words[3]) != ("constant", "const"):
            return f"space {space} is called otherwise: {error}"
        touched = {start + cell * size + byte for cell in self.outside for byte in range(size)}
        touched = {place % (1 << bits) for place in touched for bits in (32, 64)}
        if int(words[4], 16) not in touched:
            return f"cells {self.outside} of {size} bytes from {start:#x} on lie elsewhere: {error}"
        return ""

    def cells(self) -> npt.NDArray[np.generic]:
        """The array's content; all arrays begin alike."""
        return self.element.array([self.element.cell(5 * i % 23 - 11) for i in range(self.length)])


def reach(rng: random.Random, name: str) -> Reach:
    """A random one."""
    element, space = ELEMENTS[rng.choice(list(ELEMENTS))], rng.choice(SPACES)
    block, grid = rng.choice(BLOCKS), rng.randrange(1, 4)
    threads = block[0] * block[1] * block[2]
    unit = max(16 // element.size, 1) if space == "local" else 1
    most = {"local": 4, "param": max(2000 // element.size, 4), "constant": 200}.get(space, 300)
    length = rng.choice((threads, threads + 1, 2 * threads, 16, 4))
    length = -(-min(length, most * unit) // unit) * unit if unit > 1 else max(min(length, most), 1)
    # An array of one element stays in registers, and what is stored beside it is left out.
    length = max(length, 2) if space == "local" else length
    count = min(rng.choice((1, 1, 1, 2, 3)), length)
    bad, away = rng.randrange(threads * grid), _distance(rng, element, space)
    # What lies before a struct among the parameters are the other parameters.
    first = length - count + away if space == "param" or rng.random() < 0.5 else -away
    writes = space in ("first", "dynamic", "local", "global") and rng.random() < 0.5
    # Far from its window a generic address may lie in another one.
    generic = rng.random() < 0.15 and away * element.size < 1 << 31
    # Beside a function's local arrays stand what it hands to others and what those have.
    generic = generic and (space != "local" or away >= 100)
    lines = _statements(rng, element, length, count, first, bad % threads, writes, generic)
    cuda = _kernel(rng, name, element, space, length, writes, lines)
    return Reach(name, element, block, grid, space, length, bad, first, count, writes, generic, cuda)


def stray(name: str) -> Reach:
    """That of a seed."""
    return reach(random.Random(f"bounds {name}"), f"k{name}")


def _distance(rng: random.Random, element: Element, space: str) -> int:
    """In elements."""
    near = (1, 1, 1, 1, 2, 3, 16, 100, 4096, (1 << 20) + 1, (1 << 30) // element.size)
    # NVRTC itself cuts some indices into shared memory down to 32 bits: 4 GiB further is the same cell.
    far: tuple[int, ...] = () if space in SHARED else ((1 << 32) // element.size, 1 << 40)
    return rng.choice((*near, *far))


def _statements(
    rng: random.Random,
    element: Element,
    length: int,
    count: int,
    first: int,
    bad: int,
    writes: bool,
    generic: bool,
) -> list[str]:
    """The accesses and what stands around them; `cells` is the array, `r` the result."""
    good = rng.choice(("t", "(T - 1 - t)", "(t / 2)", "(t ^ 1)", "(2 * t)", "(int)threadIdx.x", "3"))
    good = f"(({good}) % {length - count + 1})"
    kind = rng.choice(("int", "int", "long long"))
    if rng.random() < 0.35 and first + count == length + 1:
        # A guard that lets one step too many through.
        good = "t"
        body = [
            f"const {kind} i = t + (g == n ? {length - count + 1} - t : 0);",
            f"if (i <= {length - count} || g == n) {{",
        ]
        closing = ["}"]
    else:
        if abs(first) >= 1 << 31:
            kind, good = "long long", f"(long long){good}"
        forms = [f"g == n ? {first} : {good}", f"{good} + (g == n) * ({first} - {good})"]
        body, closing = [f"const {kind} i = {rng.choice(forms)};"], []
    for k in range(count):
        at = f"i + {k}" if k else "i"
        value = f"{element.maker}((int)(5 * ({at}) % 23) - 11)"
        if writes:
            body.append(f"poke(cells, {at}, {value});" if generic else f"cells[{at}] = {value};")
        else:
            body.append(f"r = sum(r, {f'peek(cells, {at})' if generic else f'cells[{at}]'});")
    body += closing
    around = rng.randrange(6)
    if around == 0:
        step = rng.choice((2, 3, 5))
        body = [f"if (t % {step} == {bad % step}) {{", *body, "}"]
    elif around == 1:
        body = ["#pragma unroll 1", "for (int turn = 0; turn < 1 + t % 3; ++turn) {", *body, "}"]
    elif around == 2:
        body = [f"if (t > {bad + 2}) {{ out[g] = r; return; }}", *body]
    elif around == 3:
        body = [f"switch (t & 3) {{ case {bad & 3}: {{", *body, "} break; default: r = sum(r, r); }"]
    return body


def _kernel(
    rng: random.Random, name: str, element: Element, space: str, length: int, writes: bool, lines: list[str]
) -> str:
    own = element.name
    value = f"{element.maker}(5 * i % 23 - 11)"
    fill = f"for (int i = t; i < {length}; i += T) cells[i] = {value};"
    given, head = "", []
    start = {
        "first": f"__shared__ {own} cells[{length}];",
        "dynamic": f"DYNAMIC({own}, {name}_dynamic); {own}* cells = {name}_dynamic;",
        "global": f"{own}* cells = in;",
        "constant": f"const {own}* cells = {name}_constant;",
        "param": f"const {own}* cells = given.cells;",
        "local": f"{own} cells[{length}];",
    }[space]
    if space == "constant":
        cells = [element.cell(5 * i % 23 - 11) for i in range(length)]
        suffix = "f" if element.dtype == "f4" else "ull" if element.dtype == "u8" else ""
        text = ", ".join("{" + ", ".join(f"{v!r}{suffix}" for v in cell) + "}" for cell in cells)
        head.append(f"__constant__ {own} {name}_constant[{length}] = {{{text}}};")
    elif space == "param":
        head.append(f"struct {name}_given {{ {own} cells[{length}]; }};")
        given = f", const GRID_CONSTANT {name}_given given"
    opening = [start]
    if space in SHARED:
        if rng.random() < 0.3:
            fill = fill.replace("int i = t", "int i = 0").replace("i += T", "++i")
            opening += ["#pragma unroll 1", fill]
        else:
            opening += ["#pragma unroll 1", fill, "__syncthreads();"]
    elif space == "local":
        opening += ["#pragma unroll 1", fill.replace("int i = t", "int i = 0").replace("i += T", "++i")]
    # Without a reader the compiler would drop the stores.
    kept = [f"r = sum(r, cells[(n & 127) % {length}]);"] if writes else []
    return "\n".join(
        [
            *head,
            f'extern "C" __global__ void {name}({own}* in, {own}* out, {own}* all, int n{given}) {{',
            "  const int b = blockIdx.x, T = blockDim.x * blockDim.y * blockDim.z;",
            "  const int t = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);",
            "  const int g = b * T + t;",
            f"  {own} r = {element.maker}(t & 7);",
            *(f"  {line}" for line in [*opening, *lines, *kept]),
            "  out[g] = r;",
            "}",
        ]
    )
