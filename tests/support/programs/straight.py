"""Random straight-line PTX on integers, and what it computes: an interpreter in Python integers.

Values start from what kernels index with (thread and block numbers, parameters, loaded words) and go through
the operations of index arithmetic with operands close to where 16, 32 and 64 bits wrap. Used with the real
machine and with its analysis alone; nothing of nnkit.vm is used for what is expected.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

MASK32 = (1 << 32) - 1
EDGES = (
    0,
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    12,
    15,
    16,
    31,
    32,
    33,
    63,
    64,
    255,
    256,
    1023,
    1024,
    4096,
    0x7FFF,
    0x8000,
    0xFFFF,
)
EDGES32 = (
    *EDGES,
    0x10000,
    1 << 30,
    (1 << 31) - 1,
    1 << 31,
    (1 << 31) + 1,
    MASK32,
    MASK32 - 1,
    MASK32 - 7,
    MASK32 - 15,
)
NEAR = (0, 5, 40, (1 << 31) - 9, (1 << 31) - 1, 1 << 31, MASK32 - 20, MASK32 - 3, MASK32)
"""Parameters: with a thread's number added, the lanes of one vector stand on both sides of a wrap."""

PREFIX = {16: "%h", 32: "%r", 64: "%d"}


def signed(value: int, bits: int) -> int:
    """The value modulo 2^bits as a signed number."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


@dataclass(frozen=True)
class Thread:
    """One thread's place, and the parameters and words of memory that its program reads."""

    tid: tuple[int, int, int]
    ctaid: tuple[int, int, int]
    ntid: tuple[int, int, int]
    parameters: tuple[int, ...]
    word: int
    """What the thread finds in the array of words."""

    @property
    def linear(self) -> int:
        """Its number in the block."""
        x, y, _ = self.ntid
        return self.tid[0] + x * (self.tid[1] + y * self.tid[2])


Evaluate = Callable[[list[int], Thread], int]


@dataclass
class Program:
    """Lines of PTX, each assigning one fresh register, and how to compute its value from those before."""

    lines: list[str] = field(default_factory=list)
    registers: list[tuple[str, int]] = field(default_factory=list)
    """Name and bits, in the order of assignment."""
    rules: list[Evaluate] = field(default_factory=list)

    def add(self, bits: int, text: str, rule: Evaluate) -> int:
        """Append `text` with {} for the new register; returns its number."""
        number = len(self.registers)
        name = f"{PREFIX[bits]}{number}"
        self.lines.append(text.replace("{}", name))
        self.registers.append((name, bits))
        self.rules.append(rule)
        return number

    def values(self, thread: Thread) -> list[int]:
        """Every register's value in one thread, as a number without sign."""
        found: list[int] = []
        for rule, (_, bits) in zip(self.rules, self.registers, strict=True):
            found.append(rule(found, thread) & ((1 << bits) - 1))
        return found

    def kernel(self, parameters: int, stored: bool = True) -> str:
        """Kernel k(out, words, parameters...); thread t of n stores register r at out[r * n + t]."""
        names = ["out", "words", *(f"p{k}" for k in range(parameters))]
        kinds = ["u64", "u64"] + ["u32"] * parameters
        head = ", ".join(f".param .{kind} {name}" for kind, name in zip(kinds, names, strict=True))
        lines = [
            ".version 8.8\n.target sm_100\n.address_size 64",
            f".visible .entry k({head})",
            "{",
            ".reg .pred %p; .reg .b32 %t<9>; .reg .b64 %out, %words, %w<3>;",
            *(f".reg .b{bits} {name};" for name, bits in self.registers),
            "ld.param.u64 %out, [out]; ld.param.u64 %words, [words];",
            "mov.u32 %t0, %ntid.x; mov.u32 %t1, %ntid.y; mov.u32 %t2, %ntid.z;",
            "mov.u32 %t3, %tid.z; mov.u32 %t4, %tid.y; mad.lo.s32 %t3, %t3, %t1, %t4;",
            "mov.u32 %t4, %tid.x; mad.lo.s32 %t3, %t3, %t0, %t4;",
            "mul.lo.s32 %t4, %t0, %t1; mul.lo.s32 %t4, %t4, %t2;",
            "mov.u32 %t5, %ctaid.x; mad.lo.s32 %t6, %t5, %t4, %t3;",
            "mul.wide.s32 %w0, %t6, 8; add.s64 %out, %out, %w0;",
            "mul.wide.s32 %w0, %t3, 4; add.s64 %words, %words, %w0;",
            "mov.u32 %t7, %nctaid.x; mul.lo.s32 %t7, %t7, %t4; mul.wide.s32 %w1, %t7, 8;",
            *self.lines,
        ]
        for name, bits in self.registers if stored else []:
            wide = name
            if bits < 64:
                wide = "%w2"
                lines.append(f"cvt.u64.u{bits} %w2, {name};")
            lines += [f"st.global.u64 [%out], {wide};", "add.s64 %out, %out, %w1;"]
        return "\n".join([*lines, "ret;", "}"])


def _divided(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul.lo": lambda a, b: a * b,
    "min": min,
    "max": max,
    "div": _divided,
    "rem": lambda a, b: a - b * _divided(a, b),
}
LOGIC: dict[str, Callable[[int, int], int]] = {
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
}


class Maker:
    """Grows a program by random instructions."""

    def __init__(self, rng: random.Random, parameters: int):
        self.rng = rng
        self.program = Program()
        self._start(parameters)

    def _start(self, parameters: int) -> None:
        add = self.program.add
        for axis in range(3):
            add(32, f"mov.u32 {{}}, %tid.{'xyz'[axis]};", _thread_number(axis))
        add(32, "mov.u32 {}, %ctaid.x;", lambda _, t: t.ctaid[0])
        add(32, "mov.u32 {}, %ntid.x;", lambda _, t: t.ntid[0])
        add(32, "mov.u32 {}, %laneid;", lambda _, t: t.linear % 32)
        for k in range(parameters):
            add(32, f"ld.param.u32 {{}}, [p{k}];", _parameter(k))
        add(32, "ld.global.u32 {}, [%words];", lambda _, t: t.word)
        # Registers may be wider than what is loaded; of 64 bits, they are filled up from any type.
        for k, (size, registers) in enumerate(((8, (16, 32, 64)), (16, (16, 32, 64)), (32, (64,)))):
            for kind in "ubs":
                into = self.rng.choice(registers)
                add(into, f"ld.param.{kind}{size} {{}}, [p{k}];", _parameter(k, size, kind == "s"))

    def grow(self, steps: int) -> Program:
        """Append that many instructions."""
        choices: list[Callable[[], object]] = [
            *([self._binary] * 6 + [self._logic] * 4 + [self._shift] * 4 + [self._wide, self._mad] * 2),
            *[self._convert] * 3,
            *(self._select, self._unary, self._mad_wide),
        ]
        for _ in range(steps):
            self.rng.choice(choices)()
        return self.program

    def pick(self, bits: int) -> int:
        """A register of that many bits, late ones more often; made by a conversion where there is none."""
        found = [k for k, (_, b) in enumerate(self.program.registers) if b == bits]
        if not found or self.rng.randrange(12) == 0:
            return self._convert(bits)
        return found[-1 - min(self.rng.randrange(len(found)), self.rng.randrange(len(found)))]

    def bits(self) -> int:
        return self.rng.choice((16, 32, 32, 32, 32, 64))

    def _name(self, number: int) -> str:
        return self.program.registers[number][0]

    def _operand(self, bits: int, positive: bool = False) -> tuple[str, Callable[[list[int]], int]]:
        """A register or a constant, as text and as a way to its value."""
        if not positive and self.rng.randrange(2):
            number = self.pick(bits)
            return self._name(number), lambda v: v[number]
        value = self.rng.choice(EDGES if bits == 16 or positive else EDGES32)
        if positive:
            value = value & 0x7FFF or 1
        elif self.rng.randrange(8) == 0:
            value = -value
        return str(value), lambda v: value

    def _binary(self) -> None:
        bits, sign = self.bits(), self.rng.choice("su")
        opcode = self.rng.choice((*ARITHMETIC, "add", "add", "sub", "mul.lo"))
        a = self.pick(bits)
        text, b = self._operand(bits, positive=opcode in ("div", "rem"))
        rule = ARITHMETIC[opcode]

        def evaluate(v: list[int], _: Thread) -> int:
            return rule(_cut(v[a], bits, sign == "s"), _cut(b(v), bits, sign == "s"))

        self.program.add(bits, f"{opcode}.{sign}{bits} {{}}, {self._name(a)}, {text};", evaluate)

    def _logic(self) -> None:
        bits, opcode = self.bits(), self.rng.choice(tuple(LOGIC))
        a = self.pick(bits)
        text, b = self._operand(bits)
        self.program.add(
            bits, f"{opcode}.b{bits} {{}}, {self._name(a)}, {text};", lambda v, _: LOGIC[opcode](v[a], b(v))
        )

    def _shift(self) -> None:
        bits, a = (bits := self.bits()), self.pick(bits)
        opcode = self.rng.choice(("shl.b", "shr.u", "shr.s"))
        by = self.rng.choice((0, 1, 1, 2, 2, 3, 4, 5, 8, 15, 16, 17, 24, 31, 32, 40, 63, 64))

        def evaluate(v: list[int], _: Thread) -> int:
            if opcode == "shl.b":
                return v[a] << by
            return _cut(v[a], bits, opcode == "shr.s") >> by

        self.program.add(bits, f"{opcode}{bits} {{}}, {self._name(a)}, {by};", evaluate)

    def _wide(self) -> None:
        bits, sign = self.rng.choice((16, 32, 32, 32)), self.rng.choice("su")
        a = self.pick(bits)
        text, b = self._operand(bits)
        self.program.add(
            2 * bits,
            f"mul.wide.{sign}{bits} {{}}, {self._name(a)}, {text};",
            lambda v, _: _cut(v[a], bits, sign == "s") * _cut(b(v), bits, sign == "s"),
        )

    def _mad_wide(self) -> None:
        bits, sign = self.rng.choice((16, 32, 32, 32)), self.rng.choice("su")
        a, c = self.pick(bits), self.pick(2 * bits)
        text, b = self._operand(bits)
        self.program.add(
            2 * bits,
            f"mad.wide.{sign}{bits} {{}}, {self._name(a)}, {text}, {self._name(c)};",
            lambda v, _: _cut(v[a], bits, sign == "s") * _cut(b(v), bits, sign == "s") + v[c],
        )

    def _mad(self) -> None:
        bits, sign = self.bits(), self.rng.choice("su")
        a, c = self.pick(bits), self.pick(bits)
        text, b = self._operand(bits)
        self.program.add(
            bits,
            f"mad.lo.{sign}{bits} {{}}, {self._name(a)}, {text}, {self._name(c)};",
            lambda v, _: v[a] * b(v) + v[c],
        )

    def _convert(self, to: int = 0) -> int:
        to = to or self.rng.choice((16, 32, 64, 64, 64))
        given = self.rng.choice([k for k, (_, bits) in enumerate(self.program.registers)])
        have = self.program.registers[given][1]
        source = self.rng.choice([bits for bits in (8, 16, 32, 64) if bits == have or bits == 8 == have // 2])
        sign, target = self.rng.choice("su"), self.rng.choice("su")
        return self.program.add(
            to,
            f"cvt.{target}{to}.{sign}{source} {{}}, {self._name(given)};",
            lambda v, _: _cut(v[given], source, sign == "s"),
        )

    def _select(self) -> None:
        bits, tested = self.bits(), self.pick(32)
        a, c = self.pick(bits), self.pick(bits)
        limit = self.rng.choice(EDGES32)
        self.program.add(
            bits,
            f"setp.lt.u32 %p, {self._name(tested)}, {limit};\n"
            f"selp.b{bits} {{}}, {self._name(a)}, {self._name(c)}, %p;",
            lambda v, _: v[a] if v[tested] < limit else v[c],
        )

    def _unary(self) -> None:
        bits, opcode = self.bits(), self.rng.choice(("neg.s", "not.b", "mov.u", "abs.s"))
        a = self.pick(bits)
        rules: dict[str, Callable[[int], int]] = {
            "neg.s": lambda x: -x,
            "not.b": lambda x: ~x,
            "mov.u": lambda x: x,
            "abs.s": lambda x: abs(signed(x, bits)),
        }
        self.program.add(bits, f"{opcode}{bits} {{}}, {self._name(a)};", lambda v, _: rules[opcode](v[a]))


def _thread_number(axis: int) -> Evaluate:
    return lambda _, thread: thread.tid[axis]


def _parameter(number: int, bits: int = 32, sign: bool = False) -> Evaluate:
    """The low bits of a parameter."""
    return lambda _, thread: _cut(thread.parameters[number], bits, sign)


def _cut(value: int, bits: int, sign: bool) -> int:
    return signed(value, bits) if sign else value & ((1 << bits) - 1)
