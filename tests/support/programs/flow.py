"""Random control flow in PTX, and what each lane does on its own: an interpreter that follows one thread.

A program is a flat list of items (labels, operations, jumps, switches, barriers, exits) over a few 32-bit
registers and predicates. Every loop burns fuel, so that every program ends.
"""

import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

MASK = (1 << 32) - 1
REGISTERS, PREDICATES, CELLS, WORDS = 6, 3, 4, 64
STEPS = 100_000


@dataclass
class Lane:
    """One thread's state."""

    thread: int
    block: int
    threads: int
    n: int
    words: list[int]
    shared: list[int]
    registers: list[int] = field(default_factory=lambda: [0] * REGISTERS)
    predicates: list[bool] = field(default_factory=lambda: [False] * PREDICATES)
    cells: list[int] = field(default_factory=lambda: [0] * CELLS)
    """Memory that only this thread writes."""
    fuel: int = 0
    counters: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Item:
    """One line or more of PTX, and its effect: `run` does it, `jump` returns the label to go to (or None)."""

    text: str
    run: Callable[[Lane], object] | None = None
    jump: Callable[[Lane], str | None] | None = None
    label: str = ""
    waits: bool = False


def follow(items: list[Item], lane: Lane) -> Generator[None, None, bool]:
    """Run one thread; yields at every barrier, returns whether the thread left before the end."""
    places = {item.label: index for index, item in enumerate(items) if item.label}
    at = steps = 0
    while at < len(items):
        steps += 1
        assert steps < STEPS, "an endless program"
        item = items[at]
        at += 1
        if item.run:
            item.run(lane)
        if item.waits:
            yield
        target = item.jump(lane) if item.jump else None
        if target == "RET":
            return True
        if target is not None:
            at = places[target]
    return False


def run_block(items: list[Item], lanes: list[Lane]) -> set[int]:
    """All threads of a block, from barrier to barrier; returns those that left before the end."""
    running = {lane.thread: follow(items, lane) for lane in lanes}
    early: set[int] = set()
    while running:
        for thread, steps in list(running.items()):
            try:
                next(steps)
            except StopIteration as stop:
                early |= {thread} if stop.value else set()
                del running[thread]
    return early


OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "add.u32": lambda a, b: a + b,
    "sub.u32": lambda a, b: a - b,
    "mul.lo.u32": lambda a, b: a * b,
    "xor.b32": lambda a, b: a ^ b,
    "and.b32": lambda a, b: a & b,
    "min.u32": min,
    "shr.u32": lambda a, b: a >> min(b, 63),
    "shl.b32": lambda a, b: a << min(b, 32),
}
COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "ge": lambda a, b: a >= b,
}

STARTS: list[tuple[str, Callable[[Lane], int]]] = [
    ("mov.u32 {}, %t;", lambda lane: lane.thread),
    ("mov.u32 {}, %ctaid.x;", lambda lane: lane.block),
    ("shl.b32 {}, %t, 2;", lambda lane: lane.thread * 4),
    ("mad.lo.u32 {}, %t, 3, %n;", lambda lane: (lane.thread * 3 + lane.n) & MASK),
    ("mov.u32 {}, %n;", lambda lane: lane.n),
]


class Maker:
    """Makes items."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.items: list[Item] = []
        self.labels = 0

    def label(self) -> str:
        """A fresh label."""
        self.labels += 1
        return f"L{self.labels}"

    def place(self, label: str) -> None:
        self.items.append(Item(f"{label}:", label=label))

    def register(self) -> int:
        return self.rng.randrange(REGISTERS)

    def operand(self) -> tuple[str, Callable[[Lane], int]]:
        """A register, a constant, or what a launch is made of."""
        kind = self.rng.randrange(8)
        if kind < 4:
            number = self.register()
            return f"%r{number}", lambda lane: lane.registers[number]
        if kind == 4:
            return "%n", lambda lane: lane.n
        value = self.rng.choice((0, 1, 2, 3, 4, 5, 7, 8, 16, 31, 64, 1000, 0x7FFFFFFF, 0xFFFFFFF0))
        return str(value), lambda lane: value

    def guard(self) -> tuple[str, Callable[[Lane], bool]]:
        """Now and then a predicate before an operation."""
        if self.rng.randrange(3):
            return "", lambda lane: True
        return self.always_guard()

    def always_guard(self) -> tuple[str, Callable[[Lane], bool]]:
        number, negated = self.rng.randrange(PREDICATES), self.rng.random() < 0.5
        return f"@{'!' if negated else ''}%p{number} ", lambda lane: lane.predicates[number] != negated

    def operations(self, count: int) -> None:
        """Straight-line code."""
        makers = (
            [self.arithmetic] * 5
            + [self.compare] * 3
            + [self.load, self.store, self.select, self.scope, self.start]
        )
        for _ in range(count):
            self.rng.choice(makers)()

    def arithmetic(self) -> None:
        opcode, target, source = self.rng.choice(tuple(OPERATIONS)), self.register(), self.register()
        text, value = self.operand()
        before, active = self.guard()

        def run(lane: Lane) -> None:
            if active(lane):
                lane.registers[target] = OPERATIONS[opcode](lane.registers[source], value(lane)) & MASK

        self.items.append(Item(f"{before}{opcode} %r{target}, %r{source}, {text};", run))

    def start(self) -> None:
        """Forget a register's past: it begins anew from something that all lanes know."""
        target = self.register()
        text, value = self.rng.choice(STARTS)
        before, active = self.guard()

        def run(lane: Lane) -> None:
            if active(lane):
                lane.registers[target] = value(lane)

        self.items.append(Item(before + text.format(f"%r{target}"), run))

    def compare(self) -> None:
        number, source, name = (
            self.rng.randrange(PREDICATES),
            self.register(),
            self.rng.choice(tuple(COMPARISONS)),
        )
        text, value = self.operand()
        bits = self.rng.choice((1, 3, 7, 63, MASK))

        def run(lane: Lane) -> None:
            lane.predicates[number] = COMPARISONS[name](lane.registers[source] & bits, value(lane))

        self.items.append(
            Item(f"and.b32 %i, %r{source}, {bits}; setp.{name}.u32 %p{number}, %i, {text};", run)
        )

    def load(self) -> None:
        target, source = self.register(), self.register()
        before, active = self.guard()

        def run(lane: Lane) -> None:
            if active(lane):
                lane.registers[target] = lane.words[lane.registers[source] % WORDS]

        text = f"and.b32 %i, %r{source}, {WORDS - 1}; mul.wide.u32 %d, %i, 4; add.s64 %d, %d, %words;"
        self.items.append(Item(f"{text} {before}ld.global.u32 %r{target}, [%d];", run))

    def store(self) -> None:
        cell, source = self.rng.randrange(CELLS), self.register()
        before, active = self.guard()

        def run(lane: Lane) -> None:
            if active(lane):
                lane.cells[cell] = lane.registers[source]

        self.items.append(Item(f"{before}st.global.u32 [%out+{4 * (REGISTERS + cell)}], %r{source};", run))

    def select(self) -> None:
        target, a, b, number = (
            self.register(),
            self.register(),
            self.register(),
            self.rng.randrange(PREDICATES),
        )

        def run(lane: Lane) -> None:
            lane.registers[target] = lane.registers[a if lane.predicates[number] else b]

        self.items.append(Item(f"selp.b32 %r{target}, %r{a}, %r{b}, %p{number};", run))

    def scope(self) -> None:
        """A register that hides another of the same name."""
        hidden, target, source = self.register(), self.register(), self.register()
        if target == hidden:
            return
        text, value = self.operand()
        inner = f"%r{hidden}"
        if text == inner:
            text, value = "9", lambda lane: 9
        given = "%t" if source == hidden else f"%r{source}"

        def run(lane: Lane) -> None:
            first = lane.thread if source == hidden else lane.registers[source]
            lane.registers[target] ^= (first + value(lane)) & MASK

        self.items.append(
            Item(
                f"{{ .reg .b32 {inner}; add.u32 {inner}, {given}, {text};"
                f"xor.b32 %r{target}, %r{target}, {inner}; }}",
                run,
            )
        )

    def jump(self, label: str, conditional: bool = True) -> None:
        """To a label, perhaps only where a predicate holds."""
        if not conditional:
            self.items.append(Item(f"bra {label};", jump=lambda lane: label))
            return
        before, active = self.always_guard()
        self.items.append(Item(f"{before}bra {label};", jump=lambda lane: label if active(lane) else None))

    def burn(self, end: str) -> None:
        """Use fuel; a thread that has none left goes to `end`."""

        def leave(lane: Lane) -> str | None:
            if lane.fuel == 0:
                return end
            lane.fuel -= 1
            return None

        text = f"setp.eq.u32 %pf, %fuel, 0; @%pf bra {end}; sub.u32 %fuel, %fuel, 1;"
        self.items.append(Item(text, jump=leave))

    def switch(self, labels: list[str]) -> None:
        """By the low bits of a register."""
        source, table = self.register(), self.label()
        count = 1 << (len(labels) - 1).bit_length()
        names = [labels[k % len(labels)] for k in range(count)]
        self.items.append(
            Item(
                f"and.b32 %i, %r{source}, {count - 1};"
                f"{table}: .branchtargets {', '.join(names)}; brx.idx %i, {table};",
                jump=lambda lane: names[lane.registers[source] % count],
            )
        )

    def leave(self) -> None:
        """Some threads end here for good."""
        before, active = self.always_guard()
        text = self.rng.choice(("ret", "exit"))
        self.items.append(Item(f"{before}{text};", jump=lambda lane: "RET" if active(lane) else None))

    def exchange(self) -> None:
        """Give a register to another thread, between two barriers."""
        target, source, shift = self.register(), self.register(), self.rng.randrange(1, 40)

        def give(lane: Lane) -> None:
            lane.shared[lane.thread] = lane.registers[source]

        def take(lane: Lane) -> None:
            lane.registers[target] = lane.shared[(lane.thread + shift) % lane.threads]

        self.items += [
            Item(f"st.shared.u32 [%cell], %r{source}; bar.sync 0;", give, waits=True),
            Item(
                f"add.u32 %i, %t, {shift}; rem.u32 %i, %i, %threads; shl.b32 %i, %i, 2; mov.u32 %j, cells;"
                f"add.u32 %i, %i, %j; ld.shared.u32 %r{target}, [%i]; bar.sync 0;",
                take,
                waits=True,
            ),
        ]


def graph(rng: random.Random, blocks: int) -> list[Item]:
    """Any control flow at all, loops with several entries included."""
    maker = Maker(rng)
    labels = [f"B{k}" for k in range(blocks)]
    maker.operations(6)
    for label in labels:
        maker.place(label)
        maker.burn("DONE")
        maker.operations(rng.randrange(1, 6))
        kind = rng.randrange(12)
        if kind == 0:
            maker.leave()
        if kind < 7:
            maker.jump(rng.choice(labels))
        elif kind < 9:
            maker.jump(rng.choice(labels), conditional=False)
        elif kind < 11:
            maker.switch([rng.choice(labels) for _ in range(rng.randrange(2, 5))])
    return [*maker.items, Item("DONE:", label="DONE")]


def kernel(items: list[Item]) -> str:
    """Kernel k(words, out, n): thread g of the grid leaves its registers and cells behind those of g - 1."""
    size = 4 * (REGISTERS + CELLS)
    registers = "".join(f"mov.u32 %r{k}, {k};" for k in range(REGISTERS))
    predicates = "".join(f"setp.ne.u32 %p{k}, 0, 0;" for k in range(PREDICATES))
    stores = "".join(f"st.global.u32 [%out+{4 * k}], %r{k};" for k in range(REGISTERS))
    body = "\n".join(item.text for item in items)
    return f""".version 8.3\n.target sm_90\n.address_size 64
    .visible .entry k(.param .u64 words, .param .u64 out, .param .u32 n) {{
    .reg .b32 %r<{REGISTERS}>, %t, %n, %i, %j, %fuel, %cell, %threads; .reg .pred %p<{PREDICATES}>, %pf;
    .reg .b64 %words, %out, %d; .shared .b32 cells[1024];
    ld.param.u64 %words, [words]; ld.param.u64 %out, [out]; ld.param.u32 %n, [n];
    mov.u32 %i, %ntid.x; mov.u32 %j, %ntid.y; mul.lo.u32 %threads, %i, %j;
    mov.u32 %t, %tid.y; mov.u32 %j, %tid.x; mad.lo.u32 %t, %t, %i, %j;
    mov.u32 %i, %ctaid.x; mad.lo.u32 %i, %i, %threads, %t;
    mul.wide.u32 %d, %i, {size}; add.s64 %out, %out, %d;
    mov.u32 %i, cells; shl.b32 %j, %t, 2; add.u32 %cell, %i, %j;
    st.shared.u32 [%cell], 0; mov.u32 %fuel, 12; {registers} {predicates} bar.sync 0;
    {body}
    {stores}
    ret; }}"""
