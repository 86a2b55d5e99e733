"""Random CUDA C++ programs, each written twice: as a kernel, and as Python for one thread after another.

Threads give each other values through shared memory between barriers, which stand where all of a block's
threads come.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.programs.expressions import (
    CELLS,
    HELPERS,
    MASK,
    RESULT,
    RESULTS,
    Both,
    Expressions,
    F,
    L,
    S,
    U,
    Where,
    float_bits,
)


@dataclass
class Maker(Expressions):
    """Writes statements in both languages."""

    cuda: list[str] = field(default_factory=list)
    python: list[str] = field(default_factory=list)
    fresh: int = 0

    def write(self, indent: int, cuda: str, python: str | None = None) -> None:
        """A line in each language; none in Python if that is None."""
        self.cuda.append("  " * indent + cuda)
        if python is not None:
            self.python.append("    " * indent + python)

    def name(self) -> str:
        self.fresh += 1
        return f"k{self.fresh}"

    def statements(self, indent: int, count: int, where: Where) -> None:
        """A sequence of them."""
        for _ in range(count):
            choice = self.rng.randrange(24)
            if choice < 9 or where.depth == 0:
                self.assign(indent, where)
            elif choice < 13:
                self.branch(indent, where)
            elif choice < 17:
                self.rng.choice((self.for_loop, self.while_loop, self.do_loop))(indent, where)
            elif choice == 17:
                self.switch(indent, where)
            elif choice == 18:
                index, value = self.expression(U, where, 2), self.expression(U, where, 2)
                place = "local[({}) % 4{}] = {};"
                self.write(
                    indent,
                    place.format(index.cuda, "u", value.cuda),
                    place.format(index.python, "", value.python),
                )
            elif choice == 19 and where.can_break:
                test = self.condition(where)
                word = "continue" if where.can_continue and self.rng.random() < 0.5 else "break"
                self.write(indent, f"if ({test.cuda}) {word};", f"if {test.python}: {word}")
            elif choice == 20 and self.rng.random() < 0.4:
                test, value = self.condition(where), self.expression(U, where, 1)
                if where.in_function:
                    self.write(
                        indent,
                        f"if ({test.cuda}) return {value.cuda};",
                        f"if {test.python}: return {value.python}",
                    )
                else:
                    self.write(
                        indent, f"if ({test.cuda}) {{ DONE; return; }}", f"if {test.python}: return {RESULT}"
                    )
            elif choice > 20 and where.uniform:
                self.exchange(indent, where)

    def assign(self, indent: int, where: Where) -> None:
        kind = self.rng.choice((U, U, U, S, S, F, L))
        target, value = self.variable(kind), self.expression(kind, where)
        self.write(indent, f"{target.cuda} = {value.cuda};", f"{target.python} = {value.python}")

    def inner(self, where: Where, **changes: Any) -> Where:
        kept = {"in_function": where.in_function, "loops": where.loops, "can_break": where.can_break}
        return Where(where.depth - 1, **{**kept, "can_continue": where.can_continue, **changes})

    def body(self, indent: int, where: Where) -> None:
        self.statements(indent, self.rng.randrange(1, 4), where)
        self.python.append("    " * indent + "pass")

    def branch(self, indent: int, where: Where) -> None:
        together = where.uniform and self.rng.random() < 0.5
        test = self.same_for_all() if together else self.condition(where)
        self.write(indent, f"if ({test.cuda}) {{", f"if {test.python}:")
        self.body(indent + 1, self.inner(where, uniform=together))
        if self.rng.random() < 0.6:
            self.write(indent, "} else {", "else:")
            self.body(indent + 1, self.inner(where, uniform=together))
        self.write(indent, "}")

    def for_loop(self, indent: int, where: Where) -> None:
        name, together = self.name(), where.uniform and self.rng.random() < 0.6
        count = Both("(n & 3u)", "(n & 3)") if together else self.expression(U, where, 2)
        self.write(indent, f"unsigned {name}n = ({count.cuda}) % 6u;", f"{name}n = ({count.python}) % 6")
        self.write(
            indent,
            f"for (unsigned {name} = 0; {name} < {name}n; ++{name}) {{",
            f"for {name} in range({name}n):",
        )
        inside = not together
        changes = {"can_break": inside, "can_continue": inside, "loops": (*where.loops, name)}
        self.body(indent + 1, self.inner(where, uniform=together, **changes))
        self.write(indent, "}")

    def while_loop(self, indent: int, where: Where) -> None:
        name, test = self.name(), self.condition(where)
        self.write(indent, f"unsigned {name} = 0;", f"{name} = 0")
        self.write(indent, f"while ({test.cuda} && {name} < 5u) {{", f"while {test.python} and {name} < 5:")
        self.write(indent + 1, f"++{name};", f"{name} += 1")
        self.body(
            indent + 1, self.inner(where, can_break=True, can_continue=True, loops=(*where.loops, name))
        )
        self.write(indent, "}")

    def do_loop(self, indent: int, where: Where) -> None:
        name = self.name()
        self.write(indent, f"unsigned {name} = 0;", f"{name} = 0")
        self.write(indent, "do {", "while True:")
        self.body(
            indent + 1, self.inner(where, can_break=True, can_continue=False, loops=(*where.loops, name))
        )
        test = self.condition(where)
        self.write(indent, f"}} while ({test.cuda} && ++{name} < 5u);", f"    if not {test.python}: break")
        self.python += [
            "    " * (indent + 1) + f"{name} += 1",
            "    " * (indent + 1) + f"if {name} >= 5: break",
        ]

    def switch(self, indent: int, where: Where) -> None:
        value, name, cases = self.expression(U, where, 2), self.name(), self.rng.randrange(2, 7)
        self.write(
            indent, f"switch (({value.cuda}) % {cases + 1}u) {{", f"{name} = ({value.python}) % {cases + 1}"
        )
        self.python.append("    " * indent + f"{name}on = False")
        for case in range(cases):
            self.write(indent, f"case {case}:", f"if {name} == {case} or {name}on:")
            self.body(indent + 1, self.inner(where, can_break=False, can_continue=False))
            falls = self.rng.random() < 0.25
            self.write(indent + 1, "" if falls else "break;", f"{name}on = {falls}")
        self.write(indent, "default:", f"if {name} == {cases} or {name}on:")
        self.body(indent + 1, self.inner(where, can_break=False, can_continue=False))
        self.write(indent, "}")

    def exchange(self, indent: int, where: Where) -> None:
        """Every thread writes one cell, waits, reads any, waits."""
        value, index, target = self.expression(U, where, 2), self.expression(U, where, 2), self.variable(U)
        shift = self.rng.randrange(50)
        place = self.rng.choice(("t", f"(t + {shift}) % T", "T - 1 - t"))
        self.write(indent, f"cells[{place}] = {value.cuda};", f"cells[{place}] = {value.python}")
        self.write(indent, "__syncthreads();", "yield")
        self.write(
            indent,
            f"{target.cuda} = cells[({index.cuda}) % T];",
            f"{target.python} = cells[({index.python}) % T]",
        )
        self.write(indent, "__syncthreads();", "yield")


@dataclass(frozen=True)
class Program:
    """A kernel k(out, words, n), and what one thread does, as a generator that yields at barriers."""

    source: str
    python: str

    def expected(
        self, grid: int, block: tuple[int, int, int], words: list[int], n: int
    ) -> dict[str, list[int]]:
        """Every variable's last value (floats as their bits), in the order of the grid's threads."""
        space: dict[str, Any] = dict(HELPERS)
        exec(self.python, space)
        thread: Callable[..., Any] = space["thread"]
        x, y, z = block
        found: dict[str, list[int]] = {name: [] for name in RESULTS}
        for number in range(grid):
            cells = [0] * (x * y * z)
            running = {
                t: thread(t % x, t // x % y, t // (x * y), number, t, x * y * z, n, words, cells)
                for t in range(x * y * z)
            }
            results: dict[int, tuple[Any, ...]] = {}
            while running:
                for t, steps in list(running.items()):
                    try:
                        next(steps)
                    except StopIteration as stop:
                        results[t] = stop.value
                        del running[t]
            for t in range(x * y * z):
                for name, value in zip(RESULTS, results[t], strict=True):
                    found[name].append(float_bits(value) if name[0] == "f" else value)
        return found


def program(rng: random.Random, statements: int) -> Program:
    """A kernel and up to two functions that it calls."""
    maker = Maker(rng)
    cuda = [
        "__device__ __forceinline__ float clamped(float v)",
        "{ return v < -1e6f ? -1e6f : v > 1e6f ? 1e6f : v; }",
        "#define DONE " + " ".join(f"o[{k}] = {_bits(name)};" for k, name in enumerate(RESULTS)),
    ]
    python: list[str] = []
    for number in range(rng.randrange(3)):
        name, how = f"g{number}", rng.choice(("__noinline__", "__forceinline__", ""))
        maker.cuda, maker.python = [], []
        maker.statements(1, rng.randrange(1, 4), Where(2, in_function=True))
        cuda += [
            f"__device__ {how} unsigned {name}(unsigned a, unsigned b) {{",
            *_start("a", "b"),
            *maker.cuda,
        ]
        cuda += ["  return u0 ^ u1 ^ (unsigned)i0;", "}"]
        python += [
            f"def {name}(a, b):",
            *_start_python("a", "b"),
            *maker.python,
            "    return u0 ^ u1 ^ i0",
            "",
        ]
    maker.functions = [f"g{number}" for number in range(len([line for line in python if line[:3] == "def"]))]
    maker.cuda, maker.python = [], []
    maker.statements(1, statements, Where(rng.choice((1, 2, 2, 3)), uniform=True))
    cuda += [
        'extern "C" __global__ void k(unsigned long long *out, const unsigned *words, unsigned n) {',
        "  __shared__ unsigned cells[1024];",
        "  const unsigned tx = threadIdx.x, ty = threadIdx.y, tz = threadIdx.z, bx = blockIdx.x;",
        "  const unsigned T = blockDim.x * blockDim.y * blockDim.z;",
        "  const unsigned t = tx + blockDim.x * (ty + blockDim.y * tz);",
        f"  unsigned long long *o = out + (bx * T + t) * {len(RESULTS)}u;",
        "  cells[t] = 0; __syncthreads();",
        *_start("t", "words[t % 64u]"),
        *maker.cuda,
        "  DONE;",
        "}",
    ]
    python += [
        "def thread(tx, ty, tz, bx, t, T, n, words, cells):",
        *_start_python("t", "words[t % 64]"),
        "    yield",
        *maker.python,
        f"    return {RESULT}",
    ]
    return Program("\n".join(cuda), "\n".join(python))


def _bits(name: str) -> str:
    return f"__float_as_uint({name})" if name[0] == "f" else f"(unsigned){name}" if name[0] == "i" else name


def _start(a: str, b: str) -> list[str]:
    return [
        f"  unsigned u0 = {a}, u1 = {b}, u2 = 3u, u3 = {a} * 4u; int i0 = (int){a}, i1 = (int){b}, i2 = -1;",
        f"  float f0 = (float)({a} & 0xFFu), f1 = 0.75f; unsigned long long l0 = {b}, l1 = 1ull << 40;",
        f"  unsigned local[{CELLS}] = {{1u, 2u, {a}, {b}}};",
    ]


def _start_python(a: str, b: str) -> list[str]:
    return [
        f"    u0, u1, u2, u3, i0, i1, i2 = {a}, {b}, 3, {a} * 4 & {MASK}, {a}, {b}, {MASK}",
        f"    f0, f1, l0, l1, local = f32({a} & 255), f32(0.75), {b}, 1 << 40, [1, 2, {a}, {b}]",
    ]
