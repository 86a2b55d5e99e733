"""Control flow: basic blocks, liveness, and an order in which every loop's blocks stand together.

A barrier ends its block, since a warp that waits there goes on later; so does everything else that leaves the
straight line. A guarded instruction becomes a branch around it: past this file, only branches have
conditions.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush
from typing import Literal

from nnkit.ptx.ir import (
    CARRY,
    Address,
    Function,
    Guard,
    Instruction,
    Label,
    Location,
    Negated,
    Operand,
    Pair,
    PtxError,
    Register,
    Symbol,
    Vector,
)

Ending = Literal["jump", "branch", "switch", "exit", "barrier"]

NO_RESULT = frozenset(
    (
        *("st", "red", "bar", "barrier", "membar", "fence", "trap", "brkpt", "nanosleep", "pmevent"),
        *("prefetch", "prefetchu", "discard", "applypriority", "exit", "ret", "bra", "brx"),
    )
)
"""Opcodes whose first operand is no destination."""


@dataclass(slots=True)
class Block:
    """Instructions without a jump among them, and how they end.

    `targets` holds the successors' numbers: one for "jump" and "barrier" (where to resume), two for "branch"
    (taken, then not taken), the table's for "switch", none for "exit".
    """

    number: int
    instructions: list[Instruction] = field(default_factory=list)
    ending: Ending = "exit"
    targets: tuple[int, ...] = ()
    last: Instruction | None = None
    """What ends it: the branch with its guard, the switch, the barrier; None if it just goes on."""

    @property
    def location(self) -> Location:
        """Where the last instruction with a known line came from."""
        for item in (self.last, *reversed(self.instructions)):
            if item is not None and item.location.line:
                return item.location
        return Location()


def destinations(item: Instruction) -> list[str]:
    """The names of the registers that an instruction writes."""
    if item.opcode == "extcall":
        return names_in(item.operands[1:2])
    if is_vote(item):
        return names_in(item.operands[:1])
    if item.opcode in NO_RESULT or not item.operands:
        return []
    first = item.operands[0]
    found = [] if isinstance(first, Address) else names_in((first,))
    return [*found, CARRY] if item.writes_carry else found


def is_vote(item: Instruction) -> bool:
    """Whether it is a barrier with a result, which exists only behind it."""
    return item.opcode in ("bar", "barrier") and "red" in item.modifiers


def sources(item: Instruction) -> list[str]:
    """The names of the registers that an instruction reads, its guard included."""
    if item.opcode == "extcall":
        read: Iterable[Operand | None] = item.operands[2:]
    elif is_vote(item):
        read = item.operands[1:]
    elif item.opcode in NO_RESULT or (item.operands and isinstance(item.operands[0], Address)):
        read = item.operands
    else:
        read = item.operands[1:]
    found = names_in(read)
    if item.reads_carry:
        found.append(CARRY)
    return [*found, item.guard.register.name] if item.guard else found


def names_in(operands: Iterable[Operand | None]) -> list[str]:
    """The names of the registers among operands, in order."""
    found: list[str] = []
    for operand in operands:
        match operand:
            case Register(name):
                found.append(name)
            case Negated(register):
                found.append(register.name)
            case Address(base, _) if isinstance(base, Register):
                found.append(base.name)
            case Vector(parts):
                found += names_in(parts)
            case Pair(first, second):
                found += [part.name for part in (first, second) if part]
    return found


def build(function: Function, waits: bool = False) -> list[Block]:
    """The reachable blocks of a function, entry first; `block.number` is its place in the list.

    With `waits` a block begins at every barrier of a warp, so that lanes can wait in front of it.
    """
    splitter = _Splitter(function, waits)
    splitter.split()
    for block in splitter.blocks:
        _connect(block, splitter.blocks, splitter.labels, function)
    return _reachable(splitter.blocks)


class _Splitter:
    """Cuts a body into blocks; labels are the numbers of the blocks that they stand before."""

    def __init__(self, function: Function, waits: bool):
        self.function = function
        self.waits = waits
        self.blocks = [Block(0)]
        self.labels: dict[str, int] = {}
        self.behind_votes: set[int] = set()
        """Where a vote's result is read: no jump may lead here, or it would be read once more."""

    @property
    def now(self) -> Block:
        return self.blocks[-1]

    def split(self) -> None:
        for item in self.function.body or []:
            if isinstance(item, Label):
                self.label(item.name)
            elif item.guard and item.opcode != "bra":
                self.guarded(item, item.guard)
            else:
                self.instruction(item)

    def start(self) -> None:
        self.blocks.append(Block(len(self.blocks)))

    def label(self, name: str) -> None:
        now = self.now
        if now.instructions or now.last or name in self.labels or now.number in self.behind_votes:
            self.start()
        if name in self.labels:
            raise PtxError(f"label {name} stands twice in {self.function.name}")
        self.labels[name] = self.now.number

    def guarded(self, item: Instruction, guard: Guard) -> None:
        """@p x  becomes  @!p bra after; x; after:"""
        after = f"@after{len(self.blocks)}"
        around = Guard(guard.register, not guard.negated)
        self.instruction(replace(item, opcode="bra", modifiers=(), operands=(Symbol(after),), guard=around))
        self.instruction(replace(item, guard=None))
        self.label(after)

    def instruction(self, item: Instruction) -> None:
        if item.opcode in ("bra", "brx", "ret", "exit") or is_barrier(item):
            self.now.last = item
            self.start()
            if is_vote(item):
                self.behind_votes.add(self.now.number)
            return
        if self.waits and is_warp_barrier(item) and self.now.instructions:
            self.start()
        self.now.instructions.append(item)
        if item.opcode in ("extcall", "trap"):
            self.start()


def is_warp_barrier(item: Instruction) -> bool:
    """Whether the threads of a warp wait for each other here."""
    return item.opcode in ("bar", "barrier") and "warp" in item.modifiers


def is_barrier(item: Instruction) -> bool:
    """Whether a thread may have to wait for other warps here."""
    if item.opcode not in ("bar", "barrier") or "warp" in item.modifiers or "arrive" in item.modifiers:
        return False
    return "cluster" not in item.modifiers


def barriers(blocks: list[Block]) -> dict[int, int]:
    """For every block that ends in a barrier, which of the source it is; -1 if each thread may use its own.

    Barriers of one line of the source are the same one, which the compiler has copied; where no line is known
    each is one for itself.
    """
    found: dict[object, int] = {}
    numbers: dict[int, int] = {}
    for block in blocks:
        if block.ending != "barrier" or block.last is None:
            continue
        item = block.last
        if item.opcode == "barrier" and "aligned" not in item.modifiers:
            numbers[block.number] = -1
        else:
            place = (item.location, item.modifiers) if item.location.line else block.number
            numbers[block.number] = found.setdefault(place, len(found))
    return numbers


def _connect(block: Block, blocks: list[Block], labels: dict[str, int], function: Function) -> None:
    def place(name: str, line: int) -> int:
        if name not in labels:
            raise PtxError(f"there is no label {name} in {function.name}", line)
        return labels[name]

    following = block.number + 1
    has_following = following < len(blocks)
    last = block.last
    if last is None:
        block.ending, block.targets = ("jump", (following,)) if has_following else ("exit", ())
    elif last.opcode in ("ret", "exit"):
        block.ending, block.targets = "exit", ()
    elif last.opcode == "bra":
        target = last.operands[0]
        assert isinstance(target, Symbol)
        taken = place(target.name, last.line)
        if last.guard is None or taken == following:
            block.ending, block.targets, block.last = "jump", (taken,), None
        else:
            block.ending, block.targets = "branch", (taken, following)
    elif last.opcode == "brx":
        table = last.operands[1]
        names = function.branch_targets.get(table.name) if isinstance(table, Symbol) else None
        if names is None:
            raise PtxError("brx.idx without its .branchtargets", last.line)
        block.ending, block.targets = "switch", tuple(place(name, last.line) for name in names)
    else:
        block.ending, block.targets = "barrier", (following,)


def _reachable(blocks: list[Block]) -> list[Block]:
    seen = {0}
    stack = [0]
    while stack:
        for target in blocks[stack.pop()].targets:
            if target not in seen:
                seen.add(target)
                stack.append(target)
    kept = [block for block in blocks if block.number in seen]
    renumbered = {block.number: index for index, block in enumerate(kept)}
    for block in kept:
        block.number = renumbered[block.number]
        block.targets = tuple(renumbered[target] for target in block.targets)
    return kept


class Liveness:
    """For every block the registers whose value at its start may still be read: as bits, and as names."""

    def __init__(self, blocks: list[Block]):
        self.bit: dict[str, int] = {}
        """Each register's bit."""
        self._names: list[str] = []
        reads, writes = [], []
        for block in blocks:
            read, written = self._used(block)
            reads.append(read)
            writes.append(written)
        before: list[list[int]] = [[] for _ in blocks]
        for block in blocks:
            for target in block.targets:
                before[target].append(block.number)
        self.bits = list(reads)
        # Those that stand last first: what follows a block is mostly known when it is looked at.
        work = [-number for number in range(len(blocks))]
        heapify(work)
        listed = [True] * len(blocks)
        while work:
            number = -heappop(work)
            listed[number] = False
            after = 0
            for target in blocks[number].targets:
                after |= self.bits[target]
            found = reads[number] | (after & ~writes[number])
            if found != self.bits[number]:
                self.bits[number] = found
                for each in before[number]:
                    if not listed[each]:
                        listed[each] = True
                        heappush(work, -each)

    def __getitem__(self, block: int) -> set[str]:
        return {self._names[at] for at, bit in enumerate(bin(self.bits[block])[:1:-1]) if bit == "1"}

    def _used(self, block: Block) -> tuple[int, int]:
        """What a block reads before it writes it, and what it writes."""
        read: set[str] = set()
        written: set[str] = set()
        for item in (*block.instructions, *((block.last,) if block.last else ())):
            read.update(name for name in sources(item) if name not in written)
            written.update(destinations(item))
        return self._set(read), self._set(written)

    def _set(self, names: set[str]) -> int:
        found = 0
        for name in sorted(names):
            bit = self.bit.get(name)
            if bit is None:
                bit = self.bit[name] = 1 << len(self._names)
                self._names.append(name)
            found |= bit
        return found


def ordered(entry: int, successors: dict[int, tuple[int, ...]]) -> list[int]:
    """The blocks reachable from `entry`, each after those that lead to it, a loop's blocks together.

    Edges back to a loop's first block are the only ones that run against the order (in an irreducible loop,
    the first block found is taken for its header).
    """
    result: list[int] = []
    for component in components(entry, successors):
        header = component[0]
        if len(component) == 1:
            result.append(header)
            continue
        inside = set(component)
        within = {
            number: tuple(t for t in successors[number] if t in inside and t != header)
            for number in component
        }
        result += ordered(header, within)
    return result


def components(entry: int, successors: dict[int, tuple[int, ...]]) -> list[list[int]]:
    """Strongly connected components in topological order (Tarjan), each with its entry in front."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    found: list[list[int]] = []
    # An explicit stack: kernels with thousands of blocks would exceed Python's recursion limit.
    work: list[tuple[int, int]] = [(entry, 0)]
    while work:
        number, step = work.pop()
        if step == 0:
            index[number] = low[number] = len(index)
            stack.append(number)
            on_stack.add(number)
        # Not taken first: it is found last and so stands nearer to the branch.
        targets = successors[number]
        if step > 0 and targets[step - 1] in on_stack:
            low[number] = min(low[number], low[targets[step - 1]])
        pushed = False
        while step < len(targets):
            target = targets[step]
            step += 1
            if target not in index:
                work.append((number, step))
                work.append((target, 0))
                pushed = True
                break
            if target in on_stack:
                low[number] = min(low[number], index[target])
        if pushed:
            continue
        if low[number] == index[number]:
            component = []
            while True:
                member = stack.pop()
                on_stack.discard(member)
                component.append(member)
                if member == number:
                    break
            component.reverse()
            found.append(component)
    found.reverse()
    return found
