"""How a kernel runs over vectors of lanes: what is scalar, which branches diverge, who waits where.

A kernel is cut into regions, one for each place where a warp can (re)start: the entry and behind every
barrier. Inside a region the lanes of a vector go through the blocks in one fixed order. Where lanes part, the
block that comes first in the order runs first, the others wait ("pending"); since a loop's blocks stand
together and every block comes after those that lead to it, lanes meet again by themselves. A uniform branch
with nobody pending is an ordinary branch. This is partial control-flow linearisation (Moll and Hack, PLDI
2018), with the pending sets computed as a data-flow problem.

A register that is written while lanes are pending somewhere where its old value is still needed must keep the
old value for those lanes: it is blended, and so it varies. Shapes and pending sets depend on each other; both
only grow, so the search for a fixed point ends.
"""

from collections.abc import Callable, Iterable
from itertools import accumulate, chain

from nnkit.ptx.ir import (
    SIZES,
    Address,
    Function,
    Immediate,
    Instruction,
    Negated,
    Operand,
    Register,
    Special,
    Symbol,
    Vector,
)
from nnkit.vm.analysis import blocks, shapes
from nnkit.vm.analysis.blocks import Block
from nnkit.vm.analysis.geometry import Launch, special
from nnkit.vm.analysis.liveness import Liveness
from nnkit.vm.analysis.regions import Cutter, Region, find_pending, is_way_out, items
from nnkit.vm.analysis.shapes import UNIFORM, VARYING, Shape
from nnkit.vm.forms.form import Form, Pure
from nnkit.vm.forms.registers import destinations, sources
from nnkit.vm.forms.table import form_of, is_vote, is_warp_barrier, space_of

PATIENCE = 4
"""How often a register's range may grow before it is given up."""


class Analysis:
    """The facts about one kernel for one kind of launch."""

    def __init__(self, function: Function, launch: Launch, addresses: dict[str, int]):
        self.function = function
        self.launch = launch
        self.addresses = addresses
        self.waits = False
        """Whether lanes wait in front of a warp's barrier while others of the warp run, see `may_wait`."""
        self._analyse()
        if any(self._would_wait(region, number) for region in self.regions for number in region.order):
            self.waits = True
            self._analyse()

    def _analyse(self) -> None:
        self.blocks = blocks.build(self.function, self.waits)
        self.live = Liveness(self.blocks)
        # A register that may be read before it is written holds the same (0 or poison) in all lanes.
        self.shapes: dict[str, Shape] = dict.fromkeys(self.live[0], UNIFORM)
        self.written = {name for block in self.blocks for item in items(block) for name in destinations(item)}
        self.votes: dict[int, list[Instruction]] = {}
        """The barriers with a vote that lead to a block, in which the result is read."""
        for block in self.blocks:
            if block.ending == "barrier" and block.last and is_vote(block.last):
                self.votes.setdefault(block.targets[0], []).append(block.last)
        self.sources = blocks.barriers(self.blocks)
        """Which barrier of the source ends a block: copies that the compiler made have the same number."""
        cutter = self.cutter = Cutter(self.blocks)
        self.blended: set[str] = set()
        self.joints: frozenset[int] = frozenset()
        """Blocks that regions share and that are a region of their own, so that they are compiled once."""
        self._cut(self.joints)
        if joints := cutter.joints(self.regions):
            self._cut(joints)
        self._part()
        if any(region.pending.get(joint) for region in self.regions for joint in self.joints):
            # Blended registers vary, and so more lanes wait than when the joints were chosen.
            self._cut(frozenset())
            self._part()
        self.full = not self.parts and self._stays_full()
        self.saved = self._saved()

    # -- queries --------------------------------------------------------------------------------------------

    def shape(self, register: str) -> Shape:
        """A register's shape; one that is never written is uniform (and zero)."""
        return self.shapes.get(register, UNIFORM)

    def operand(self, operand: Operand | None, type_: str) -> Shape:
        """An operand's shape, read as that type."""
        match operand:
            case Register(name) | Negated(Register(name)):
                return self.shape(name)
            case Immediate(value, 0) if type_ in shapes.INTEGERS:
                return shapes.constant(value, 8 * SIZES[type_])
            case Symbol(name, offset) if name in self.addresses:
                return shapes.constant(self.addresses[name] + offset, 64)
            case Special(name):
                return special(name, self.launch)
            case Immediate() | Symbol():
                return UNIFORM
        return VARYING

    def diverges(self, block: Block) -> bool:
        """Whether lanes can leave a block for different targets."""
        if block.last is None or len(set(block.targets)) < 2:
            return False
        if block.ending == "branch" and block.last.guard:
            return self.shape(block.last.guard.register.name).kind != "uniform"
        return block.ending == "switch" and self.operand(block.last.operands[0], "u32").kind != "uniform"

    def must_blend(self, region: Region, block: int, register: str) -> bool:
        """Whether lanes that wait elsewhere still need the register's old value."""
        return bool(self.live.bit.get(register, 0) & self.needed(region, region.pending[block]))

    def needed(self, region: Region, waiting: int) -> int:
        """The registers that lanes need that wait for a set of a region's blocks, as bits."""
        known = region.needed
        ahead = []
        while waiting not in known:
            ahead.append(waiting)
            waiting &= waiting - 1
        for each in reversed(ahead):
            low = each & -each
            known[each] = known[each ^ low] | self.live.bits[region.order[low.bit_length() - 1]]
        return known[ahead[0] if ahead else waiting]

    def may_wait(self, region: Region, number: int) -> bool:
        """Whether a block begins with a warp's barrier at which lanes wait until others come or leave."""
        items = self.blocks[number].instructions
        if not self.waits or number == region.entry or not items or not is_warp_barrier(items[0]):
            return False
        return self.operand(items[0].operands[0], "u32").kind == "uniform"

    def _would_wait(self, region: Region, number: int) -> bool:
        """Whether lanes meet at a barrier of the warp while others may be where they can still come from."""
        return any(map(is_warp_barrier, self.blocks[number].instructions)) and any(
            not self.is_way_out(other) for other in region.waiting(number)
        )

    def may_part(self, region: Region, number: int) -> bool:
        """Whether lanes may wait at a block's barrier while others come to one as good.

        As good is a copy that the compiler made. `barrier.sync` that is not aligned is for each thread alone.
        """
        if self.blocks[number].ending != "barrier" or not region.pending[number]:
            return False
        source, ahead = self.sources[number], self._ahead(region, number)
        return source < 0 or any(of == source and ahead >> other & 1 for other, of in self.sources.items())

    def _ahead(self, region: Region, number: int) -> int:
        """Where lanes may come, up to the next barrier, that wait while a block runs, as bits."""
        found = 0
        for other in region.waiting(number):
            found |= self.cutter.ahead[other]
        return found

    def written_in(self, region: Region) -> set[str]:
        """The registers that a region's blocks write."""
        # A vote's result is written where the region begins.
        return self._names(region, destinations, self.votes.get(region.entry, ()))

    def touched_in(self, region: Region) -> set[str]:
        """The registers that a region's blocks read or write."""
        return self._names(region, sources, ()) | self.written_in(region)

    def size(self, region: Region, first: int = 0, end: int | None = None) -> int:
        """The instructions of the blocks from one place in a region's order up to another, jumps too."""
        if not region.sizes:
            each = (len(self.blocks[number].instructions) + 1 for number in region.order)
            region.sizes = list(accumulate(each, initial=0))
        return region.sizes[-1 if end is None else end] - region.sizes[first]

    def _names(
        self, region: Region, of: Callable[[Instruction], list[str]], more: Iterable[Instruction]
    ) -> set[str]:
        blocks = [self.blocks[number] for number in region.order if not self.leaves(region, number)]
        return {name for item in chain(*map(items, blocks), more) for name in of(item)}

    def _cut(self, joints: frozenset[int]) -> None:
        self.joints = joints
        self.regions = self.cutter.cut(joints)
        self._converge()

    def _part(self) -> None:
        self.parts = any(self.may_part(region, number) for region in self.regions for number in region.order)
        """Whether lanes of a vector may wait at different barriers, see `nnkit.vm.emit.strands`."""
        if self.parts:
            self.blended |= self._written_apart()
            self._converge()

    # -- the fixed point ------------------------------------------------------------------------------------

    def is_way_out(self, number: int) -> bool:
        """Whether a block does nothing but leave the kernel."""
        return is_way_out(self.blocks[number])

    def leaves(self, region: Region, number: int) -> bool:
        """Whether a block is only the door to another region here."""
        return number in self.joints and number != region.entry

    def _converge(self) -> None:
        while True:
            self._find_shapes()
            found: set[str] = set()
            for region in self.regions:
                self._find_pending(region)
                for number in region.order:
                    if not region.pending[number] or self.leaves(region, number):
                        continue
                    for item in self.blocks[number].instructions:
                        for name in destinations(item):
                            if name not in self.blended and self.must_blend(region, number, name):
                                found.add(name)
            if not found:
                return
            self.blended |= found

    def _find_shapes(self) -> None:
        listed = [item for block in self.blocks for item in block.instructions]
        listed += [block.last for block in self.blocks if block.ending == "barrier" and block.last]
        visits: dict[str, int] = {}
        changed = True
        while changed:
            changed = False
            for item in listed:
                for name, shape in self._results(item):
                    old = self.shapes.get(name)
                    new = VARYING if name in self.blended else shapes.join(old, shape)
                    if new == old:
                        continue
                    visits[name] = visits.get(name, 0) + 1
                    if visits[name] > PATIENCE and new.kind != "varying":
                        new = shapes.widened(new, 8 * SIZES[self.function.registers[name]])
                        if visits[name] > 3 * PATIENCE:
                            new = VARYING if new.kind != "uniform" else Shape("uniform")
                        if new == old:
                            continue
                    self.shapes[name] = new
                    changed = True

    def _results(self, item: Instruction) -> list[tuple[str, Shape]]:
        names = destinations(item)
        if not names:
            return []
        # Operands that no lane has a value for yet say nothing so far.
        if any(name not in self.shapes and name in self.written for name in sources(item)):
            return []
        form = form_of(item)
        assert form is not None, item.name
        match form.lanes:
            case "loaded":
                return [(name, self._loaded(item, name)) for name in names]
            case "varying":
                shape = VARYING
            case "uniform":
                shape = UNIFORM
            case "members":
                # Lanes that name different members get different results.
                same = self.operand(item.operands[-1], "u32").kind == "uniform"
                shape = UNIFORM if same else VARYING
            case "computed" if not any(isinstance(operand, Vector) for operand in item.operands):
                shape = self._computed(item, form)
            case _:
                read = [self.shape(name) for name in sources(item)]
                shape = UNIFORM if all(s.kind == "uniform" for s in read) else VARYING
        return [(name, shape) for name in names]

    def _computed(self, item: Instruction, form: Form) -> Shape:
        assert isinstance(form, Pure)
        _, types = form.types(item)
        given = [
            self.operand(operand, type_) for operand, type_ in zip(item.operands[1:], types, strict=True)
        ]
        return shapes.transfer(item, form, given, self.launch.width)

    def _loaded(self, item: Instruction, name: str) -> Shape:
        place = item.operands[1]
        assert isinstance(place, Address)
        if self.operand(place.base, "u64").kind != "uniform" or space_of(item) in ("local", "generic"):
            return VARYING
        return shapes.extended(item.type, self.function.registers[name])

    def _find_pending(self, region: Region) -> None:
        region.may_wait = 0
        if self.waits:
            region.may_wait = sum(1 << at for at, n in enumerate(region.order) if self.may_wait(region, n))
        diverging = [number for number in region.order if self.diverges(self.blocks[number])]
        find_pending(region, self.blocks, diverging, self.joints)

    # -- what the code generator asks besides ---------------------------------------------------------------

    def _stays_full(self) -> bool:
        """Whether every lane is alive wherever nobody waits elsewhere, so that code needs no mask there."""
        if self.launch.threads % self.launch.width:
            return False
        return not any(
            self.blocks[number].ending == "exit"
            and not self.leaves(region, number)
            and region.pending[number]
            for region in self.regions
            for number in region.order
        )

    def _written_apart(self) -> set[str]:
        """The saved registers that lanes may write after they have parted, each its own value.

        All but those that are written only where the whole vector runs: in front of every barrier, and where
        nobody waits or has parted.
        """
        first = self.regions[0]
        apart = sum(1 << number for number in first.order if first.pending[number])
        for block in self.blocks:
            if block.ending == "barrier":
                apart |= self.cutter.behind[block.targets[0]]
        for number in first.order:
            if self.may_part(first, number):
                apart |= self._ahead(first, number)
        found = {
            name
            for block in self.blocks
            if apart >> block.number & 1
            for item in items(block)
            for name in destinations(item)
        }
        return found.intersection(self._saved())

    def _saved(self) -> list[str]:
        """Registers whose values must outlive a barrier."""
        names: set[str] = set()
        for region in self.regions[1:]:
            names |= self.live[region.entry]
        return sorted(names & self.written)
