"""Random guarded accesses in PTX: every way to compute an address, in every space, type and vector width.

NVRTC has a few habits; other compilers compute shared addresses in 32 bits, add large offsets, widen late or
never. Each access touches cell s * t + o of an array where that cell is there, and a predicate or a branch
keeps all other threads away.
"""

import random
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

BLOCKS = [(1, 1, 1), (2, 1, 1), (31, 1, 1), (32, 1, 1), (33, 1, 1), (64, 1, 1), (100, 1, 1)]
BLOCKS += [(8, 8, 1), (5, 7, 1), (3, 4, 5)]
SPACES = ("first", "second", "dynamic", "global", "variable", "const", "local", "param")
TYPES = {"u8": 1, "s8": 1, "b8": 1, "u16": 2, "s16": 2, "u32": 4, "b32": 4, "f32": 4, "u64": 8, "f64": 8}
SLOT = 16
"""Bytes of a result."""
HEAD = ".version 8.3\n.target sm_90\n.address_size 64\n"

REGISTERS = ".reg .pred %p<4>; .reg .b16 %h<9>; .reg .b32 %i, %j, %a, %k<9>, %w<9>; .reg .b64 %d<9>, %x<9>;"
"""What every access uses, mostly its own: what is known of a register holds wherever it is written."""

Bytes = npt.NDArray[np.uint8]


@dataclass
class Program:
    """A kernel NAME(out, in, given) and what it must write."""

    name: str
    space: str
    block: tuple[int, int, int]
    grid: int
    size: int
    """Bytes of the array."""
    content: Bytes
    """Of the array at first."""
    head: str = ""
    lines: list[str] = field(default_factory=list)
    results: list[Bytes] = field(default_factory=list)
    """One (threads, SLOT) for each load: the same in every block."""
    stray: tuple[int, int] | None = None
    """The thread that reaches one cell too far, and where that cell lies from the array on, in bytes."""

    @property
    def threads(self) -> int:
        """Of a block."""
        return self.block[0] * self.block[1] * self.block[2]

    @property
    def dynamic_bytes(self) -> int:
        """Of shared memory that the launch must give."""
        return self.size if self.space == "dynamic" else 0

    def misreported(self, error: str, start: int) -> str:
        """What an error does not say of the stray access, or ""; the array begins at the address `start`."""
        assert self.stray
        thread, away = self.stray
        x, y, _ = self.block
        place = f"block (0, 0, 0), thread {(thread % x, thread // x % y, thread // (x * y))}: "
        wide = 1 << (64 if self.space in ("global", "variable", "const") else 32)
        words = f" address {(start + away) % wide:#x} is out of bounds: "
        return "" if place in error and words in error else f"not {place}...{words}but {error}"

    @property
    def expected(self) -> Bytes:
        """(loads, threads of the grid, SLOT)."""
        shape = (len(self.results), self.grid * self.threads, SLOT)
        return np.array([np.tile(rows, (self.grid, 1)) for rows in self.results], np.uint8).reshape(shape)

    @property
    def text(self) -> str:
        """The kernel in PTX."""
        given = f", .param .align 16 .b8 given[{self.size}]" if self.space == "param" else ""
        body = "\n".join(self.lines)
        return f"""{self.head}
.visible .entry {self.name}(.param .u64 out, .param .u64 in{given})
{{
.reg .b32 %t, %T; .reg .b64 %out, %in;
{REGISTERS}
ld.param.u64 %in, [in];
mov.u32 %k0, %tid.x; mov.u32 %k1, %ntid.x; mov.u32 %k2, %tid.y; mov.u32 %k3, %ntid.y; mov.u32 %k4, %tid.z;
mad.lo.s32 %k8, %k4, %k3, %k2; mad.lo.s32 %t, %k8, %k1, %k0; mov.u32 %k5, %ntid.z;
mul.lo.s32 %k7, %k1, %k3; mul.lo.s32 %T, %k7, %k5;
mov.u32 %j, %ctaid.x; mad.lo.s32 %k6, %j, %T, %t; mul.wide.u32 %d0, %k6, {SLOT};
ld.param.u64 %d7, [out]; add.s64 %out, %d7, %d0;
{body}
ret;
}}"""


@dataclass
class Maker:
    """Writes one program."""

    rng: random.Random
    program: Program
    memory: Bytes
    """What the array holds now, for each thread: rows are one and the same unless it is local."""
    stored: bool = False

    @property
    def windowed(self) -> bool:
        """Whether addresses of the space fit into 32 bits."""
        return self.program.space in ("first", "second", "dynamic", "local")

    @property
    def keyword(self) -> str:
        """The space in an instruction."""
        spaces = {
            "variable": "global",
            "global": "global",
            "const": "const",
            "local": "local",
            "param": "param",
        }
        return spaces.get(self.program.space, "shared")

    @property
    def symbol(self) -> str:
        """The array's name."""
        return "given" if self.program.space == "param" else f"{self.program.name}_cells"

    def line(self, text: str) -> None:
        self.program.lines.append(text)

    def base(self, register: str, bits: int) -> None:
        """The array's address."""
        if self.program.space == "global":
            self.line(f"mov.u64 {register}, %in;")
        else:
            self.line(f"mov.u{bits} {register}, {self.symbol};")

    def fill(self) -> None:
        """Copy the content from global memory, byte by byte."""
        p = self.program
        if p.space not in ("first", "second", "dynamic", "local"):
            return
        own = p.space == "local"
        self.line(f"mov.u32 %i, {'0' if own else '%t'}; mov.u64 %d1, {self.symbol};")
        self.line(f"FILL: setp.ge.u32 %p0, %i, {p.size}; @%p0 bra FULL; cvt.u64.u32 %d2, %i;")
        self.line("add.s64 %d3, %in, %d2; ld.global.u8 %h0, [%d3]; add.s64 %d3, %d1, %d2;")
        self.line(f"st.{self.keyword}.u8 [%d3], %h0; add.u32 %i, %i, {'1' if own else '%T'}; bra FILL; FULL:")
        if not own:
            self.line("bar.sync 0;")

    def access(self) -> None:
        """One load or store of a cell s * t + o, guarded."""
        rng, p = self.rng, self.program
        kind = rng.choice(list(TYPES))
        size = TYPES[kind]
        count = rng.choice([c for c in (1, 1, 1, 1, 2, 4) if c * size <= SLOT])
        cell = size * count
        length = p.size // cell
        scale = rng.choice((1,) * 8 + (-1, -1, 2, 3, 0, 1000, 1 << 28))
        reach = rng.choice((0, 1, 1, 2, 3, 8, 17, p.threads // 2))
        start = (
            rng.choice((-reach, -reach, reach)) if scale >= 0 else rng.choice((p.threads - 1, length)) - reach
        )
        index = [_signed(scale * t + start) for t in range(p.threads)]
        inside = np.array([0 <= i < length for i in index])
        self._predicate(scale, start, length)
        place = self._address(scale, start, cell)
        store = (
            p.space in ("first", "second", "dynamic", "local")
            and scale in (1, -1, 2, 3)
            and rng.random() < 0.4
        )
        found = np.zeros((p.threads, SLOT), np.uint8)
        names, mine = self._instruction(kind, count, place, store)
        rows = np.arange(p.threads) if p.space == "local" else np.zeros(p.threads, int)
        if store:
            if p.space != "local":
                self.line("bar.sync 0;")
            for t in np.flatnonzero(inside):
                self.memory[rows[t], index[t] * cell : (index[t] + 1) * cell] = mine[t]
            self.stored = True
            return
        found[:, :cell] = mine
        for t in np.flatnonzero(inside):
            found[t, :cell] = self.memory[rows[t], index[t] * cell : (index[t] + 1) * cell]
        p.results.append(found)
        for k, name in enumerate(names):
            self.line(f"st.global.b{8 * size} [%out+{k * size}], {name};")
        self._next()

    def _instruction(self, kind: str, count: int, place: str, store: bool) -> tuple[list[str], Bytes]:
        """A load or a store behind %p1; its registers, and what they hold before: (threads, bytes)."""
        p, size = self.program, TYPES[kind]
        registers = {1: "%h", 2: "%h", 4: "%w", 8: "%x"}[size]
        names = [f"{registers}{4 + k}" for k in range(count)]
        operand = f"{{{', '.join(names)}}}" if count > 1 else names[0]
        space = "" if place.startswith("[%d8") else f".{self.keyword}"
        order = self.rng.choice(("", "", "", ".volatile")) if space not in (".param", ".const") else ""
        if store and p.space != "local":
            self.line("bar.sync 0;")
        for k, name in enumerate(names):
            widen = {1: "cvt.u16.u32", 2: "cvt.u16.u32", 4: "mov.u32", 8: "cvt.u64.u32"}[size]
            self.line(f"mad.lo.s32 %k7, %t, 37, {k}; {widen} {name}, %k7;")
        numbers = [[(37 * t + k) % (1 << 8 * size) for k in range(count)] for t in range(p.threads)]
        way = f"{order}{space}{'.v' + str(count) if count > 1 else ''}.{kind}"
        self._behind_the_guard(f"st{way} {place}, {operand};" if store else f"ld{way} {operand}, {place};")
        return names, np.array(numbers, f"<u{size}").view(np.uint8).reshape(p.threads, size * count)

    def edge(self) -> None:
        """An access whose guard lets one thread through that is one cell too far."""
        rng, p = self.rng, self.program
        kind = rng.choice(list(TYPES))
        count = rng.choice([c for c in (1, 1, 2, 4) if c * TYPES[kind] <= SLOT])
        cell = TYPES[kind] * count
        length, thread, scale = (
            p.size // cell,
            rng.randrange(p.threads),
            rng.choice((1, 1, 1, -1, 2, 3, 1000)),
        )
        # Before a second array lies the first one, before a struct the other parameters.
        behind = p.space in ("second", "param") or rng.random() < 0.5
        far = length if behind else -1
        start = far - scale * thread
        self.line(f"mad.lo.s32 %i, %t, {scale}, {start};")
        least, most = (0, length) if behind else (-1, length - 1)
        signed = f"setp.ge.s32 %p2, %i, {least}; setp.le.s32 %p3, %i, {most}; and.pred %p1, %p2, %p3;"
        shifted = f"sub.s32 %j, %i, {least}; setp.lt.u32 %p1, %j, {length + 1};"
        self.line(rng.choice((signed, shifted)))
        place = self._address(scale, start, cell, negative=not behind)
        store = p.space not in ("const", "param") and rng.random() < 0.5
        names, _ = self._instruction(kind, count, place, store)
        if not store:
            self.line("".join(f"st.global.b{8 * TYPES[kind]} [%out], {name}; " for name in names))
        p.stray = thread, far * cell

    def _next(self) -> None:
        """To the next result's place."""
        self.line(f"add.s64 %out, %out, {self.program.grid * self.program.threads * SLOT};")

    def dump(self) -> None:
        """What the stores have left, SLOT bytes a thread at a time."""
        p = self.program
        step = SLOT if p.space == "local" else SLOT * p.threads
        for at in range(0, p.size if self.stored else 0, step):
            starts = [at + (0 if p.space == "local" else SLOT * t) for t in range(p.threads)]
            found = np.zeros((p.threads, SLOT), np.uint8)
            for t, start in enumerate(starts):
                if start < p.size:
                    found[t] = self.memory[t if p.space == "local" else 0, start : start + SLOT]
            p.results.append(found)
            zeros = " ".join(f"mov.u32 %w{4 + k}, 0;" for k in range(4))
            self.line(f"mad.lo.u32 %i, %t, {0 if p.space == 'local' else SLOT}, {at};")
            self.line(
                f"setp.lt.u32 %p1, %i, {p.size}; mov.u32 %k8, {self.symbol}; add.u32 %a, %k8, %i; {zeros}"
            )
            self.line(f"@%p1 ld.{self.keyword}.v4.u32 {{%w4, %w5, %w6, %w7}}, [%a];")
            self.line("st.global.v4.u32 [%out], {%w4, %w5, %w6, %w7};")
            self._next()

    def _predicate(self, scale: int, start: int, length: int) -> None:
        """%i and %p1: the cell, and whether it is there."""
        rng = self.rng
        forms = [f"mad.lo.s32 %i, %t, {scale}, {start};"]
        if scale == 1:
            forms += [f"add.s32 %i, %t, {start};", f"sub.s32 %i, %t, {-start};"]
        if scale == -1:
            forms += [f"mov.u32 %j, {start}; sub.s32 %i, %j, %t;"]
        self.line(rng.choice(forms))
        self.line(
            rng.choice(
                (
                    f"setp.lt.u32 %p1, %i, {length};",
                    f"setp.ge.s32 %p2, %i, 0; setp.lt.s32 %p3, %i, {length}; and.pred %p1, %p2, %p3;",
                    f"setp.lt.s32 %p2, %i, 0; setp.ge.s32 %p3, %i, {length}; or.pred %p1, %p2, %p3; "
                    "not.pred %p1, %p1;",
                )
            )
        )

    def _address(self, scale: int, start: int, cell: int, negative: bool = False) -> str:
        """The operand that reaches cell %i, whatever becomes of it in other threads."""
        rng = self.rng
        shift, immediate = cell.bit_length() - 1, 0
        if abs(scale) < 4 and rng.random() < 0.6:
            # All of the distance by an offset in the instruction, as NVRTC does, or part of it.
            part = rng.choice((*[start] * 5, -1, 1, 5, -100, 1 << 16))
            immediate = part * cell
            self.line(f"sub.s32 %i, %i, {part};")
        offset = f"+{immediate}" if immediate else ""
        if self.windowed and rng.random() < 0.5:
            self.base("%k8", 32)
            self.line(
                rng.choice(
                    (
                        f"mad.lo.s32 %a, %i, {cell}, %k8;",
                        f"shl.b32 %j, %i, {shift}; add.s32 %a, %k8, %j;",
                        f"mul.lo.s32 %j, %i, {-cell}; sub.s32 %a, %k8, %j;",
                    )
                )
            )
            return f"[%a{offset}]"
        self.base("%d4", 64)
        signed = [
            f"mul.wide.s32 %d5, %i, {cell}; add.s64 %d6, %d4, %d5;",
            f"cvt.s64.s32 %d5, %i; shl.b64 %d5, %d5, {shift}; add.s64 %d6, %d4, %d5;",
            f"cvt.s64.s32 %d5, %i; mad.lo.s64 %d6, %d5, {cell}, %d4;",
            f"mad.wide.s32 %d6, %i, {cell}, %d4;",
            f"shl.b32 %j, %i, {shift}; cvt.s64.s32 %d5, %j; add.s64 %d6, %d4, %d5;",
        ]
        unsigned = [
            f"mul.wide.u32 %d5, %i, {cell}; add.s64 %d6, %d4, %d5;",
            f"cvt.u64.u32 %d5, %i; shl.b64 %d5, %d5, {shift}; add.s64 %d6, %d4, %d5;",
            f"mad.wide.u32 %d6, %i, {cell}, %d4;",
        ]
        # An index below zero that counts, be it that the offset undoes it, needs the signed forms.
        self.line(rng.choice(signed if immediate or negative else [*signed, *unsigned]))
        if self.windowed and rng.random() < 0.2:
            self.line("cvt.u32.u64 %a, %d6;")
            return f"[%a{offset}]"
        if rng.random() < 0.2 and self.program.space != "param":
            self.line(f"cvta.{self.keyword}.u64 %d8, %d6;")
            return f"[%d8{offset}]"
        return f"[%d6{offset}]"

    def _behind_the_guard(self, what: str) -> None:
        """By a predicate, by a branch around it, or in a loop whose threads leave one by one."""
        number = len(self.program.lines)
        form = self.rng.randrange(4)
        if form < 2:
            self.line(f"@%p1 {what}")
        elif form == 2:
            self.line(f"@!%p1 bra S{number}; {what} S{number}:")
        else:
            self.line(f"and.b32 %k7, %t, 3; L{number}: @%p1 {what}")
            self.line(f"setp.gt.s32 %p0, %k7, 0; sub.s32 %k7, %k7, 1; @%p0 bra L{number};")


def _signed(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def program(rng: random.Random, name: str, stray: bool = False) -> Program:
    """A random one; a stray one has a last access that goes wrong in one thread, and one block."""
    space, block, grid = (
        rng.choice((*SPACES, "first", "first", "dynamic", "param")),
        rng.choice(BLOCKS),
        rng.randrange(1, 4),
    )
    threads = block[0] * block[1] * block[2]
    size = rng.choice((16, 48, 64, 4 * threads, 8 * threads, 16 * threads))
    size = -(-min(size, 64 if space == "local" else 4000 if space == "param" else 1 << 14) // 16) * 16
    content = np.array([rng.randrange(256) for _ in range(size)], np.uint8)
    made = Program(name, space, block, 1 if stray else grid, size, content)
    cells = f"{name}_cells"
    initial = ", ".join(map(str, content))
    made.head = {
        "first": f".shared .align 16 .b8 {cells}[{size}];",
        "second": f".shared .align 16 .b8 {name}_before[48];\n.shared .align 16 .b8 {cells}[{size}];",
        "dynamic": f".extern .shared .align 16 .b8 {cells}[];",
        "variable": f".global .align 16 .b8 {cells}[{size}] = {{{initial}}};",
        "const": f".const .align 16 .b8 {cells}[{size}] = {{{initial}}};",
    }.get(space, "")
    maker = Maker(rng, made, np.tile(content, (threads if space == "local" else 1, 1)))
    if space == "local":
        maker.line(f".local .align 16 .b8 {cells}[{size}];")
    if space == "second":
        maker.line(f"mov.u32 %k8, {name}_before; st.shared.u32 [%k8], %t;")
    maker.fill()
    for _ in range(rng.randrange(0 if stray else 2, 2 if stray else 6)):
        own = rng.random() < 0.9
        maker.line(f"{{ {REGISTERS}" if own else "")
        maker.access()
        maker.line("}" if own else "")
    maker.line(f"{{ {REGISTERS}")
    if stray:
        maker.edge()
    else:
        maker.dump()
    maker.line("}")
    return made
