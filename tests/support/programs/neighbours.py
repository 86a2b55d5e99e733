"""Random programs whose threads look at their neighbours behind a guard, each in CUDA C++ and in Python.

Thread t reads or writes cell t - d or t + d of an array if that cell is there: the address of a thread whose
guard says no lies outside, and must not matter. Arrays lie in every space and hold every type of element;
indices, guards and ways to write them down are those that people use. The Python twin runs one thread after
another and refuses an index that is outside.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from tests.support.programs.elements import Cell, Element

Block = tuple[int, int, int]
BLOCKS: list[Block] = [
    *((1, 1, 1), (2, 1, 1), (3, 1, 1), (17, 1, 1), (31, 1, 1), (32, 1, 1), (33, 1, 1), (64, 1, 1)),
    *((100, 1, 1), (128, 1, 1), (8, 8, 1), (5, 7, 1), (32, 3, 1), (16, 5, 1), (3, 4, 5), (2, 2, 9)),
]
SPACES = ("first", "second", "dynamic", "global", "mine", "constant", "param", "local")
SHARED = ("first", "second", "dynamic")
WRITABLE = (*SHARED, "mine", "local")
RESULTS = 3


class Cells(list[Cell]):
    """An array of the Python twin, in which an index outside is an error."""

    def __getitem__(self, index: Any) -> Any:
        assert 0 <= index < len(self), f"the program itself is wrong: index {index} of {len(self)}"
        return super().__getitem__(index)

    def __setitem__(self, index: Any, value: Any) -> None:
        assert 0 <= index < len(self), f"the program itself is wrong: index {index} of {len(self)}"
        super().__setitem__(index, value)


@dataclass(frozen=True)
class Array:
    """One array of a program: its name in both languages, where it lies, how many elements it has."""

    name: str
    space: str
    length: int


@dataclass(frozen=True)
class Index:
    """A cell's number, base + offset, and the guard that keeps it inside: as C and as Python write it."""

    cuda: str
    python: str
    guard: str
    inside: str
    wraps: bool
    """Whether its C type has no sign: one less than 0 is far away."""


@dataclass
class Program:
    """A kernel NAME(in, out, mine, n[, given]) for blocks of one shape, and its twin."""

    name: str
    element: Element
    block: Block
    grid: int
    n: int
    arrays: list[Array]
    cuda: str
    python: str

    @property
    def threads(self) -> int:
        """Of a block."""
        return self.block[0] * self.block[1] * self.block[2]

    @property
    def dynamic_bytes(self) -> int:
        """Of shared memory that the launch must give."""
        return sum(a.length * self.element.size for a in self.arrays if a.space == "dynamic")

    def length(self, space: str) -> int:
        """How many elements the array in that space has; 0 if there is none."""
        return sum(a.length for a in self.arrays if a.space == space)

    def given(self) -> npt.NDArray[Any]:
        """What the struct that is passed by value holds."""
        return self.element.array(self.filled("param"))

    def filled(self, space: str) -> list[Cell]:
        """The first content of an array."""
        salt = 7 * SPACES.index(space)
        return [self.element.cell((5 * i + salt) % 23 - 11) for i in range(self.length(space))]

    def expected(self) -> npt.NDArray[Any]:
        """Every thread's results, in the order of the grid: (threads, RESULTS, components)."""
        space: dict[str, Any] = {**self.element.functions(), "Cells": Cells}
        exec(self.python, space)
        thread: Callable[..., Any] = space["thread"]
        x, y, _ = self.block
        count, found = self.threads, []
        for b in range(self.grid):
            memory = {a.name: Cells(self.filled(a.space)) for a in self.arrays if a.space != "local"}
            own = {a.name: self.filled("local") for a in self.arrays if a.space == "local"}
            running = {
                t: thread(
                    *(t % x, t // x % y, t // (x * y), b, t, count, b * count + t, self.n),
                    **memory,
                    **{name: Cells(cells) for name, cells in own.items()},
                )
                for t in range(count)
            }
            results: dict[int, list[Cell]] = {}
            while running:
                for t, steps in list(running.items()):
                    try:
                        next(steps)
                    except StopIteration as stop:
                        results[t] = stop.value
                        del running[t]
            found += [cell for t in range(count) for cell in results[t]]
        return self.element.array(found).reshape(self.grid * count, RESULTS, self.element.count)


@dataclass
class Maker:
    """Writes one program's statements in both languages."""

    rng: random.Random
    element: Element
    block: Block
    grid: int
    n: int
    arrays: list[Array]
    cuda: list[str] = field(default_factory=list)
    python: list[str] = field(default_factory=list)
    fresh: int = 0

    @property
    def threads(self) -> int:
        return self.block[0] * self.block[1] * self.block[2]

    def write(self, indent: int, cuda: str, python: str | None = None) -> None:
        """A line in each language; none in Python if that is None. Most loops stay loops: less to compile."""
        if cuda.startswith(("for", "while")) and self.rng.random() < 0.85:
            self.cuda.append("#pragma unroll 1")
        self.cuda.append("  " * indent + cuda)
        if python is not None:
            self.python.append("    " * indent + python)

    def name(self, hint: str = "k") -> str:
        self.fresh += 1
        return f"{hint}{self.fresh}"

    def barrier(self, indent: int = 1) -> None:
        self.write(indent, "__syncthreads();", "yield")

    def register(self) -> str:
        return f"r{self.rng.randrange(RESULTS)}"

    # -- indices and guards ---------------------------------------------------------------------------------

    def base(self, injective: bool = False, of_grid: bool = False) -> tuple[str, str, bool]:
        """A thread's own place, in C and in Python, and whether its C type has no sign."""
        rng = self.rng
        flat = self.block[1] * self.block[2] == 1
        if of_grid:
            choices = [
                ("g", "g", False),
                ("(b * T + t)", "g", False),
                ("(gridDim.x * T - 1 - g)", f"({self.grid} * T - 1 - g)", True),
            ]
            if flat:
                choices += [("(blockIdx.x * blockDim.x + threadIdx.x)", "g", True)] * 3
            return rng.choice(choices)
        choices = [
            *[("t", "t", False)] * 4,
            ("(T - 1 - t)", "(T - 1 - t)", False),
            ("2 * t", "(2 * t)", False),
            ("(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z))", "t", True),
        ]
        if flat:
            choices += [("threadIdx.x", "t", True)] * 4 + [("(int)threadIdx.x", "t", False)] * 2
            choices += [("(blockDim.x - 1 - threadIdx.x)", "(T - 1 - t)", True)]
        if not injective:
            choices += [
                *(("n", "n", False), ("(int)blockIdx.x", "b", False), ("x", "x", False)),
                *(("y", "y", False), ("(t / 2)", "(t // 2)", False), ("(t % 8)", "(t % 8)", False)),
                *(("(t ^ 1)", "(t ^ 1)", False), ("t * 3", "(t * 3)", False)),
            ]
        return rng.choice(choices)

    def distance(self) -> tuple[str, int]:
        """How far away a neighbour is, in C and as a number."""
        value = self.rng.choice((1, 1, 1, 2, 3, 4, 8, 16, self.n, self.n))
        return ("n" if value == self.n and self.rng.random() < 0.7 else str(value)), value

    def index(self, array: Array, injective: bool = False) -> Index:
        """base - d or base + d, guarded; declared before or written where it is used."""
        rng, length = self.rng, array.length
        of_grid = array.space == "global" and rng.random() < 0.6
        cuda, python, unsigned = self.base(injective, of_grid)
        d, far = self.distance()
        sign = rng.choice("--+")
        inside = f"0 <= {python} {sign} {far} < {length}"
        exact = f"{python} {sign} {far}"
        kind = rng.choice(("", "", "", "int", "unsigned", "long long", "size_t", "short"))
        if kind:
            name = self.name("i")
            of = f"({kind}){cuda}" if rng.random() < 0.5 or kind == "short" else cuda
            self.write(1, f"const {kind} {name} = ({kind})({of} {sign} {d});")
            # A difference without sign in 32 bits, widened to long long, is far above every length too.
            written, wraps = name, kind in ("unsigned", "size_t")
        else:
            written, wraps = f"{cuda} {sign} {d}", unsigned
        if wraps:
            guards = [f"{written} < {length}u", f"{written} <= {length - 1}u"]
        else:
            guards = [
                f"{written} >= 0 && {written} < {length}",
                f"!({written} < 0 || {written} >= {length})",
                f"(unsigned)({written}) < {length}u",
            ]
        if sign == "-":
            guards += [f"{cuda} >= {d} && {cuda} - {d} < {length}"] * 2
        elif not unsigned:
            guards += [f"{cuda} < {length} - {d}"] * 2
        return Index(written, exact, rng.choice(guards), inside, wraps)

    def place(self, array: Array, index: str, wraps: bool = True) -> str:
        """A cell in C."""
        name = "given.cells" if array.space == "param" else array.name
        forms = [f"{name}[{index}]"] * 4 + [f"*({name} + ({index}))"]
        return self.rng.choice(forms if wraps else [*forms, f"({name} + 1)[({index}) - 1]"])

    def load(self, array: Array, index: str, wraps: bool = True) -> str:
        """A cell's value in C."""
        if self.rng.random() < 0.1:
            pointer = "given.cells" if array.space == "param" else array.name
            return f"peek({pointer}, {index})"
        if self.rng.random() < 0.07 and array.space in SHARED and self.element.count == 1:
            return f"((volatile {self.element.name}*){array.name})[{index}]"
        return self.place(array, index, wraps)

    def condition(self) -> tuple[str, str]:
        """Which threads; not where they are."""
        rng = self.rng
        bit = rng.choice((1, 3, 7))
        return rng.choice(
            (
                (f"(t & {bit}) != 0", f"(t & {bit}) != 0"),
                (f"t % 5 < {bit}", f"t % 5 < {bit}"),
                ("before(r0, r1)", "before(r0, r1)"),
                (f"t > {bit}", f"t > {bit}"),
                (f"x + y < {4 * bit}", f"x + y < {4 * bit}"),
                (f"(blockIdx.x & 1u) == {bit & 1}u", f"(b & 1) == {bit & 1}"),
            )
        )

    # -- statements -----------------------------------------------------------------------------------------

    def neighbour(self, array: Array) -> None:
        """r = cell of a neighbour, or something else where there is none."""
        rng = self.rng
        i, r, s = self.index(array), self.register(), self.register()
        cell, twin = self.load(array, i.cuda, i.wraps), f"{array.name}[{i.python}]"
        how = rng.choice(("sum", "less", "low", "high"))
        test, other = self.condition()
        form = rng.randrange(6)
        if form == 0:
            self.write(1, f"{r} = {i.guard} ? {cell} : {s};", f"{r} = {twin} if {i.inside} else {s}")
        elif form == 1:
            self.write(
                1, f"if ({i.guard}) {r} = {how}({r}, {cell});", f"if {i.inside}: {r} = {how}({r}, {twin})"
            )
        elif form == 2:
            self.write(
                1, f"if (!({i.guard})) {r} = {how}({s}, {r});", f"if not ({i.inside}): {r} = {how}({s}, {r})"
            )
            self.write(1, f"else {r} = {cell};", f"else: {r} = {twin}")
        elif form == 3:
            self.write(1, f"if ({test}) {{ if ({i.guard}) {r} = {cell}; else {s} = {how}({s}, {r}); }}")
            self.write(1, "", f"if {other}:")
            self.write(1, "", f"    if {i.inside}: {r} = {twin}")
            self.write(1, "", f"    else: {s} = {how}({s}, {r})")
        elif form == 4:
            self.write(1, f"if (({i.guard}) && {test}) {r} = {how}({cell}, {r});")
            self.write(1, "", f"if {i.inside} and {other}: {r} = {how}({twin}, {r})")
        else:
            self.write(1, f"{r} = {test} ? {s} : {i.guard} ? {cell} : {r};")
            self.write(1, "", f"{r} = {s} if {other} else {twin} if {i.inside} else {r}")

    def window(self, array: Array) -> None:
        """All neighbours up to a distance, in a loop."""
        rng = self.rng
        k, r, reach = self.name(), self.register(), rng.choice((1, 2, 3, 5))
        cuda, python, unsigned = self.base()
        if unsigned:
            cuda = f"(int){cuda}"
        first = rng.choice((-reach, 0, 1))
        how, sign = rng.choice(("sum", "low", "high")), rng.choice("+-")
        i = self.name("i")
        self.write(1, f"for (int {k} = {first}; {k} <= {reach}; ++{k}) {{")
        self.write(1, "", f"for {k} in range({first}, {reach} + 1):")
        self.write(2, f"int {i} = {cuda} {sign} {k};", f"{i} = {python} {sign} {k}")
        cell, twin = self.load(array, i), f"{array.name}[{i}]"
        if rng.random() < 0.5:
            self.write(2, f"if ({i} < 0 || {i} >= {array.length}) {rng.choice(('continue',))};")
            self.write(2, "", f"if {i} < 0 or {i} >= {array.length}: continue")
            self.write(2, f"{r} = {how}({r}, {cell});", f"{r} = {how}({r}, {twin})")
        else:
            self.write(2, f"if ({i} >= 0 && {i} < {array.length}) {r} = {how}({r}, {cell});")
            self.write(2, "", f"if 0 <= {i} < {array.length}: {r} = {how}({r}, {twin})")
        self.write(1, "}")

    def walk(self, array: Array) -> None:
        """From a thread's own cell to one end, as far as there are cells."""
        rng = self.rng
        i, r, step = self.name("i"), self.register(), rng.choice((1, 3, 7, 16))
        cuda, python, _ = self.base()
        kind, length = rng.choice(("int", "long long", "short")), array.length
        turns = self.name()
        self.write(
            1, f"{kind} {i} = ({kind})({cuda}) - 1; int {turns} = 0;", f"{i} = {python} - 1; {turns} = 0"
        )
        cell = self.load(array, i)
        if rng.random() < 0.6:
            self.write(1, f"while ({i} >= 0 && {turns}++ < 9) {{", f"while {i} >= 0 and {turns} < 9:")
            self.write(2, f"if ({i} < {length}) {r} = sum({r}, {cell});")
            self.write(2, "", f"if {i} < {length}: {r} = sum({r}, {array.name}[{i}])")
            self.write(2, f"{i} -= {step};", f"{i} -= {step}; {turns} += 1")
        else:
            self.write(
                1, f"while ({i} < {length} && {turns}++ < 9) {{", f"while {i} < {length} and {turns} < 9:"
            )
            self.write(2, f"if ({i} >= 0) {r} = sum({r}, {cell});")
            self.write(2, "", f"if {i} >= 0: {r} = sum({r}, {array.name}[{i}])")
            self.write(2, f"{i} += {step};", f"{i} += {step}; {turns} += 1")
        self.write(1, "}")

    def stencil(self, array: Array) -> None:
        """The neighbours above, below, left and right, in rows as wide as the block or not."""
        rng = self.rng
        width = rng.choice((self.block[0], self.block[0], max(self.block[0] - 1, 1), 4))
        rows = array.length // width
        r = self.register()
        diagonal = rng.random() < 0.4
        for dy, dx in rng.sample([(-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (1, 1), (-2, 0), (0, 2)], 4):
            if dy and dx and not diagonal:
                continue
            guard = [f"y >= {-dy}" if dy < 0 else "", f"x >= {-dx}" if dx < 0 else ""]
            guard += [f"y + {dy} < {rows}" if dy >= 0 else f"y < {rows + -dy}"]
            guard += [f"x + {dx} < {width}" if dx >= 0 else f"x < {width + -dx}"]
            text = " && ".join(filter(None, guard))
            row = f"(y - {-dy})" if dy < 0 else f"(y + {dy})"
            column = f"x - {-dx}" if dx < 0 else f"x + {dx}"
            if rng.random() < 0.3:
                row, column = row.replace("y", "threadIdx.y"), column.replace("x", "threadIdx.x")
            cell = self.load(array, f"{row} * {width} + {column}")
            self.write(1, f"if ({text}) {r} = sum({r}, {cell});")
            inside = f"0 <= y + {dy} < {rows} and 0 <= x + {dx} < {width}"
            self.write(1, "", f"if {inside}: {r} = sum({r}, {array.name}[(y + {dy}) * {width} + x + {dx}])")

    def store(self, array: Array) -> None:
        """A value into a neighbour's cell, each thread another."""
        rng = self.rng
        shared = array.space != "local"
        i = self.index(array, injective=shared)
        value, (test, other) = self.register(), self.condition()
        if shared:
            self.barrier()
        place = self.place(array, i.cuda, i.wraps)
        if rng.random() < 0.1:
            pointer = array.name
            write = f"poke({pointer}, {i.cuda}, {value});"
        else:
            write = f"{place} = {value};"
        if rng.random() < 0.7:
            self.write(1, f"if ({i.guard}) {write}", f"if {i.inside}: {array.name}[{i.python}] = {value}")
        else:
            self.write(1, f"if ({test}) {{ if ({i.guard}) {write} }}")
            self.write(1, "", f"if {other} and {i.inside}: {array.name}[{i.python}] = {value}")
        if shared:
            self.barrier()
