"""Control flow: a body as basic blocks.

A barrier ends its block, since a warp that waits there goes on later; so does everything else that leaves the
straight line. A guarded instruction becomes a branch around it: past this file, only branches have
conditions.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

from nnkit.ptx.ir import Function, Guard, Instruction, Label, Location, PtxError, Symbol
from nnkit.vm.forms.form import Effect, Ending
from nnkit.vm.forms.table import form_of, is_vote, is_warp_barrier, way_of

Ends = Literal["jump", "branch", "switch", "exit", "barrier"]


@dataclass(slots=True)
class Block:
    """Instructions without a jump among them, and how they end.

    `targets` holds the successors' numbers: one for "jump" and "barrier" (where to resume), two for "branch"
    (taken, then not taken), the table's for "switch", none for "exit".
    """

    number: int
    instructions: list[Instruction] = field(default_factory=list)
    ending: Ends = "exit"
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
            elif item.guard and way_of(item) != "jump":
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
        form = form_of(item)
        if isinstance(form, Ending):
            self.now.last = item
            self.start()
            if is_vote(item):
                self.behind_votes.add(self.now.number)
            return
        if self.waits and is_warp_barrier(item) and self.now.instructions:
            self.start()
        self.now.instructions.append(item)
        if isinstance(form, Effect) and form.stops:
            self.start()


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
        item, form = block.last, form_of(block.last)
        if isinstance(form, Ending) and not form.aligned:
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
    last = block.last
    if last is None:
        has_following = following < len(blocks)
        block.ending, block.targets = ("jump", (following,)) if has_following else ("exit", ())
        return
    match way_of(last):
        case "return" | "exit":
            block.ending, block.targets = "exit", ()
        case "jump":
            target = last.operands[0]
            assert isinstance(target, Symbol)
            taken = place(target.name, last.line)
            if last.guard is None or taken == following:
                block.ending, block.targets, block.last = "jump", (taken,), None
            else:
                block.ending, block.targets = "branch", (taken, following)
        case "switch":
            table = last.operands[1]
            names = function.branch_targets.get(table.name) if isinstance(table, Symbol) else None
            if names is None:
                raise PtxError("brx.idx without its .branchtargets", last.line)
            block.ending, block.targets = "switch", tuple(place(name, last.line) for name in names)
        case _:
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
