"""Random expressions, each written in CUDA C++ and in Python.

All integer arithmetic wraps (it is done without sign); floats stay finite, so that every bit is defined.
"""

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MASK = 0xFFFFFFFF
U, S, F, L = "unsigned", "int", "float", "unsigned long long"
VARIABLES = {U: ["u0", "u1", "u2", "u3"], S: ["i0", "i1", "i2"], F: ["f0", "f1"], L: ["l0", "l1"]}
WORDS, CELLS = 64, 4
RESULTS = [name for names in VARIABLES.values() for name in names]
RESULT = f"({', '.join(RESULTS)})"


@dataclass(frozen=True)
class Both:
    """The same in both languages; integers in Python are kept without sign."""

    cuda: str
    python: str


def signed(value: int) -> int:
    """32 bits as a signed number."""
    return value - (1 << 32) if value >> 31 else value


def quotient(a: int, b: int) -> int:
    """What C's division of signed numbers gives, as 32 bits."""
    a, b = signed(a), signed(b)
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1) & MASK


def clamped(value: Any) -> Any:
    """Keeps floats far from infinity."""
    return min(max(value, np.float32(-1e6)), np.float32(1e6))


def float_bits(value: Any) -> int:
    """A float's 32 bits."""
    return int(np.float32(value).view(np.uint32))


HELPERS = {
    "signed": signed,
    "quotient": quotient,
    "clamped": clamped,
    "f32": np.float32,
    "remainder": lambda a, b: (a - quotient(a, b) * b) & MASK,
    "arithmetic": lambda a, by: (signed(a) >> by) & MASK,
    "clz": lambda a: 32 - a.bit_length(),
    "popc": int.bit_count,
    "bits": float_bits,
}


@dataclass
class Where:
    """What may stand at a place of the program."""

    depth: int
    uniform: bool = False
    """Whether all threads of a block come here: barriers may."""
    can_break: bool = False
    can_continue: bool = False
    in_function: bool = False
    loops: tuple[str, ...] = ()
    """Loop counters, which may be read."""


@dataclass
class Expressions:
    """Makes them; `functions` are those that may be called."""

    rng: random.Random
    functions: list[str] = field(default_factory=list)

    def leaf(self, kind: str, where: Where) -> Both:
        rng = self.rng
        if kind == F:
            if rng.random() < 0.7:
                return self.variable(F)
            value = rng.choice((0.5, -1.25, 3.0, 0.1, 1000.0, -7.0))
            return Both(f"{value}f", f"f32({value})")
        if kind == L:
            value = rng.choice((3, 1 << 32, (1 << 63) - 1, (1 << 64) - 5))
            return self.variable(L) if rng.random() < 0.8 else Both(f"{value}ull", str(value))
        choice = rng.randrange(12)
        if choice < 5:
            return self.variable(kind)
        if choice == 5 and where.loops:
            name = rng.choice(where.loops)
            return Both(f"({kind}){name}", name)
        if choice < 8 and not where.in_function:
            name = rng.choice(("tx", "ty", "tz", "bx", "t", "n", "T"))
            return Both(f"({kind}){name}", name)
        value = rng.choice(
            (0, 1, 2, 3, 5, 7, 8, 15, 16, 31, 100, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFF0)
        )
        return Both(f"({kind}){value}u", str(value))

    def variable(self, kind: str) -> Both:
        name = self.rng.choice(VARIABLES[kind])
        return Both(name, name)

    def expression(self, kind: str, where: Where, depth: int = 2) -> Both:
        if depth == 0 or self.rng.randrange(6) == 0:
            return self.leaf(kind, where)
        makers = {F: self.float_expression, L: self.long_expression}
        return makers.get(kind, self.int_expression)(kind, where, depth - 1)

    def float_expression(self, kind: str, where: Where, depth: int) -> Both:
        a, b = self.expression(F, where, depth), self.expression(F, where, depth)
        choice = self.rng.randrange(7)
        if choice < 4:
            operator = self.rng.choice("+-*")
            text = f"({{}} {operator} {{}})"
            return Both(f"clamped{text.format(a.cuda, b.cuda)}", f"clamped{text.format(a.python, b.python)}")
        if choice == 4:
            integer = self.expression(U, where, depth)
            return Both(f"(float)({integer.cuda} & 0xFFFFu)", f"f32({integer.python} & 0xFFFF)")
        if choice == 5:
            integer = self.expression(S, where, depth)
            return Both(f"clamped((float)({integer.cuda}))", f"clamped(f32(signed({integer.python})))")
        test = self.condition(where, depth)
        return Both(f"({test.cuda} ? {a.cuda} : {b.cuda})", f"({a.python} if {test.python} else {b.python})")

    def long_expression(self, kind: str, where: Where, depth: int) -> Both:
        a, b = self.expression(L, where, depth), self.expression(L, where, depth)
        mask = (1 << 64) - 1
        choice = self.rng.randrange(7)
        if choice < 4:
            operator = self.rng.choice("+-*&|^")
            return Both(f"({a.cuda} {operator} {b.cuda})", f"(({a.python} {operator} {b.python}) & {mask})")
        if choice == 4:
            narrow = self.expression(U, where, depth)
            return Both(f"(unsigned long long)({narrow.cuda})", narrow.python)
        if choice == 5:
            narrow = self.expression(S, where, depth)
            return Both(
                f"(unsigned long long)(long long)({narrow.cuda})", f"(signed({narrow.python}) & {mask})"
            )
        by = self.rng.choice((1, 2, 3, 8, 31, 32, 40))
        return Both(f"({a.cuda} >> {by})", f"({a.python} >> {by})")

    def int_expression(self, kind: str, where: Where, depth: int) -> Both:  # noqa: PLR0912  one an operation
        a, b = self.expression(kind, where, depth), self.expression(kind, where, depth)
        wrap = "({})" if kind == U else "((int)({}))"
        ua, ub = (a.cuda, b.cuda) if kind == U else (f"(unsigned){a.cuda}", f"(unsigned){b.cuda}")
        choice = self.rng.randrange(21)
        if choice < 8:
            operator = self.rng.choice("++-*&|^")
            return Both(
                wrap.format(f"{ua} {operator} {ub}"), f"(({a.python} {operator} {b.python}) & {MASK})"
            )
        if choice == 8:
            return Both(wrap.format(f"{ua} << ({ub} & 31u)"), f"({a.python} << ({b.python} & 31) & {MASK})")
        if choice == 9:
            if kind == U:
                return Both(f"({a.cuda} >> ({b.cuda} & 31u))", f"({a.python} >> ({b.python} & 31))")
            return Both(f"({a.cuda} >> ({ub} & 31u))", f"arithmetic({a.python}, {b.python} & 31)")
        if choice in (10, 11):
            by = self.rng.choice((2, 3, 4, 5, 7, 8, 10, 16, 100))
            divide = choice == 10
            if kind == U:
                return Both(
                    f"({a.cuda} {'/' if divide else '%'} {by}u)",
                    f"({a.python} {'//' if divide else '%'} {by})",
                )
            name = "quotient" if divide else "remainder"
            return Both(f"({a.cuda} {'/' if divide else '%'} {by})", f"{name}({a.python}, {by})")
        if choice == 12 and kind == U:
            return Both(f"({a.cuda} / ({b.cuda} | 1u))", f"({a.python} // ({b.python} | 1))")
        if choice == 13:
            test = self.condition(where, depth)
            return Both(
                f"({test.cuda} ? {a.cuda} : {b.cuda})", f"({a.python} if {test.python} else {b.python})"
            )
        if choice == 14:
            bits, mask = self.rng.choice((("unsigned char", 0xFF), ("unsigned short", 0xFFFF)))
            return Both(f"({kind})({bits})({a.cuda})", f"({a.python} & {mask})")
        if choice == 15:
            bits, half = self.rng.choice((("signed char", 0x80), ("short", 0x8000)))
            text = f"(((({a.python}) & {2 * half - 1}) ^ {half}) - {half} & {MASK})"
            return Both(f"({kind})({bits})({a.cuda})", text)
        if choice == 16 and not where.in_function:
            index = self.expression(U, where, depth)
            return Both(f"({kind})words[{index.cuda} % {WORDS}u]", f"words[{index.python} % {WORDS}]")
        if choice == 17:
            return Both(f"({kind})local[{ub} % {CELLS}u]", f"local[{b.python} % {CELLS}]")
        if choice == 18 and self.functions and not where.in_function:
            name = self.rng.choice(self.functions)
            return Both(f"({kind}){name}({ua}, {ub})", f"{name}({a.python}, {b.python})")
        if choice == 19:
            low = self.expression(L, where, depth)
            return Both(f"({kind})({low.cuda})", f"({low.python} & {MASK})")
        if choice == 20:
            name = self.rng.choice(("__popc", "__clz", "__float_as_uint"))
            if name == "__float_as_uint":
                real = self.expression(F, where, depth)
                return Both(f"({kind})__float_as_uint({real.cuda})", f"bits({real.python})")
            return Both(f"({kind}){name}((int){a.cuda})", f"{name[2:]}({a.python})")
        return Both(f"({kind})(~{ua})", f"(~{a.python} & {MASK})")

    def condition(self, where: Where, depth: int = 2) -> Both:
        choice = self.rng.randrange(9)
        if choice == 0 and depth:
            a, b = self.condition(where, depth - 1), self.condition(where, depth - 1)
            operator, word = self.rng.choice((("&&", "and"), ("||", "or")))
            return Both(f"({a.cuda} {operator} {b.cuda})", f"({a.python} {word} {b.python})")
        kind = self.rng.choice((U, U, S, S, F, L))
        a, b = self.expression(kind, where, depth), self.expression(kind, where, 1)
        operator = self.rng.choice(("<", "<=", "==", "!=", ">"))
        if kind in (U, S) and choice < 5:
            bits = self.rng.choice((1, 3, 7))
            return Both(f"(({a.cuda} & {bits}) {operator} 1)", f"(({a.python} & {bits}) {operator} 1)")
        form = "signed({})" if kind == S else "{}"
        return Both(
            f"({a.cuda} {operator} {b.cuda})", f"({form.format(a.python)} {operator} {form.format(b.python)})"
        )

    def same_for_all(self) -> Both:
        """A condition on what all threads of a block know."""
        value, bits = self.rng.randrange(4), self.rng.choice((1, 2, 3))
        name = self.rng.choice(("n", "bx"))
        return Both(f"(({name} & {bits}u) != {value}u)", f"(({name} & {bits}) != {value})")
