"""Where a kernel is cut, and the order in which a region's blocks run: one in which few lanes wait.

A set of blocks is an integer here, with a bit for each: Python adds and compares a thousand at once. In a
region the bits are those of the blocks' places, so that the lowest one is the block that runs first.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from heapq import heappop, heappush

from nnkit.ptx.ir import Instruction, Location
from nnkit.vm.analysis.blocks import Block
from nnkit.vm.analysis.order import components, ordered

CHEAP = 4
"""Blocks for which lanes wait, on average, up to which the first order that is found is taken."""

FEW_STOPS = 64
"""Sets of waiting blocks at barriers of warps up to which each is followed for itself."""

WORTH_SHARING = 64
"""Instructions from which code that several regions share becomes a region of its own."""

MANY_TIMES = 4
"""How many times as long as the kernel all regions together may be before more of their code is shared."""


def bits(found: int) -> Iterator[int]:
    """The numbers of the bits that are set, lowest first."""
    while found:
        low = found & -found
        yield low.bit_length() - 1
        found ^= low


@dataclass
class Region:
    """The blocks that a warp can run from one (re)start until it waits at a barrier or ends."""

    number: int
    entry: int
    barrier: Location
    """Of the barrier behind which it begins; unknown for others."""
    order: list[int]
    place: dict[int, int] = field(init=False)
    pending: dict[int, int] = field(default_factory=dict)
    """For every block, where else lanes may be waiting while it runs: a bit for each place in the order."""
    may_wait: int = 0
    """The blocks that begin with a warp's barrier at which lanes wait, see `Analysis.may_wait`."""
    headers: int = 0
    """The blocks that others behind them lead back to."""
    needed: dict[int, int] = field(default_factory=lambda: {0: 0})
    """The registers that lanes need that wait for a set of blocks, as far as it is known."""
    sizes: list[int] = field(default_factory=list)
    """Of the blocks, added up in order, as soon as somebody asks."""
    masked: frozenset[int] = frozenset()
    """The blocks that need a mask of their own: lanes can wait for them, or elsewhere while they run."""

    def __post_init__(self) -> None:
        self.place = {block: place for place, block in enumerate(self.order)}

    def waiting(self, number: int) -> list[int]:
        """The blocks for which lanes may be waiting while one runs, in order."""
        return [self.order[place] for place in bits(self.pending[number])]


class Cutter:
    """Cuts a kernel's blocks into regions."""

    def __init__(self, blocks: list[Block]):
        self.blocks = blocks
        self.everywhere = {b.number: b.targets for b in blocks}
        self.inside = {b.number: () if b.ending == "barrier" else b.targets for b in blocks}
        """What is behind a block, up to the next barrier."""
        self.behind, self.repeated = _closure(self.everywhere)

    @cached_property
    def ahead(self) -> list[int]:
        """For every block the set of those that can follow up to the next barrier, itself included."""
        return _closure(self.inside)[0]

    def cut(self, joints: frozenset[int]) -> list[Region]:
        """The regions; one begins at each joint, beside those at the entry and behind barriers."""
        starts = {0: Location()}
        for block in self.blocks:
            if block.ending == "barrier":
                starts.setdefault(block.targets[0], block.location)
        starts |= {joint: Location() for joint in sorted(joints) if joint not in starts}
        return [
            Region(number, start, barrier, self._leaving_first(self._order(start, joints)))
            for number, (start, barrier) in enumerate(starts.items())
        ]

    @cached_property
    def small_first(self) -> dict[int, tuple[int, ...]]:
        """What is behind a block, so that the way with less code of its own comes first in the order.

        Then the others wait the shorter. A search in depth puts last what it finds first. A way's own code is
        what can only be reached by it.
        """
        above = _dominators(self.everywhere)
        own = dict.fromkeys(above, 1)
        for number, one in reversed(above.items()):
            if one != number:
                own[one] += own[number]

        def ordered(block: int, targets: tuple[int, ...]) -> tuple[int, ...]:
            sizes = {target: own[target] if above[target] == block else 0 for target in targets}
            return tuple(sorted(targets, key=sizes.__getitem__, reverse=True))

        return {block: ordered(block, targets) for block, targets in self.inside.items()}

    def _order(self, start: int, joints: frozenset[int]) -> list[int]:
        closed: dict[int, tuple[int, ...]] = {joint: () for joint in joints if joint != start}
        first = ordered(start, self.inside | closed if closed else self.inside)
        cost = _waiting(first, self.inside)
        if cost <= CHEAP * len(first):
            return first
        second = ordered(start, self.small_first | closed)
        return min(first, second, key=lambda order: _waiting(order, self.inside))

    def _leaving_first(self, order: list[int]) -> list[int]:
        """The order with every barrier behind the blocks of lanes that leave the kernel without it.

        `if (i >= n) return; ... __syncthreads();` is for the lanes that are left. A block that lanes reach
        from behind the barrier too is none of those: who goes there past the barrier has missed it.
        """
        for barrier in [n for n in order if self.blocks[n].ending == "barrier"]:
            if order[-1] == barrier:
                continue
            behind = self.behind[self.blocks[barrier].targets[0]]
            place = order.index(barrier)
            tail = order[place + 1 :]
            first = [n for n in tail if not behind >> n & 1 or is_way_out(self.blocks[n])]
            chosen = set(first)
            order = [*order[:place], *first, barrier, *(n for n in tail if n not in chosen)]
        return order

    def joints(self, regions: list[Region]) -> frozenset[int]:
        """Blocks, outside loops, from which several regions run the same long code together.

        The first one; where code would still be there many times, more of them, some way from each other: a
        kernel with a barrier in each of many ifs would grow with their square.
        """
        candidates = self._shared(regions)
        first = next(candidates, None)
        if first is None:
            return frozenset()
        found, size, since = [first], self._size(range(len(self.blocks))), 0
        alone = self.cut(frozenset(found))
        if sum(self._size(region.order) for region in alone) <= MANY_TIMES * size:
            return frozenset(found)
        wanted = set(candidates)
        for number in ordered(0, self.everywhere):
            since = 0 if number == first else since + self._size([number])
            if number in wanted and since >= WORTH_SHARING:
                found.append(number)
                since = 0
        return frozenset(found)

    def _size(self, numbers: Iterable[int]) -> int:
        """The instructions of blocks, jumps too."""
        return sum(len(self.blocks[number].instructions) + 1 for number in numbers)

    def _shared(self, regions: list[Region]) -> Iterator[int]:
        """The blocks outside loops from which several regions run the same long code together, in order."""
        users: dict[int, list[Region]] = {}
        for region in regions:
            for number in region.order:
                users.setdefault(number, []).append(region)
        for number in ordered(0, self.everywhere):
            here = users.get(number, ())
            if len(here) < 2 or number in self.repeated:
                continue
            if any(region.pending[number] or region.entry == number for region in here):
                continue
            if self._size(ordered(number, self.inside)) >= WORTH_SHARING:
                yield number


def is_way_out(block: Block) -> bool:
    """Whether a block does nothing but leave the kernel."""
    return block.ending == "exit" and not block.instructions


def find_pending(
    region: Region, blocks: list[Block], diverging: Iterable[int], joints: frozenset[int]
) -> None:
    """Propagate who waits along the edges that the code will have until nothing changes.

    Where lanes part, all targets wait at first. Of those that wait, the first in the order runs, and the
    others go on waiting: so a set that has been looked at once says all about what follows from it.
    """
    parting, place = set(diverging), region.place
    pending = {region.entry: 0}
    # Places whose blocks are to be looked at, the first first: what comes before a block is known by then.
    work, known = [place[region.entry]], set[tuple[int, int]]()
    barriers = sum(1 << at for at, number in enumerate(region.order) if blocks[number].ending == "barrier")

    def reach(at: int, others: int) -> None:
        target = region.order[at]
        # Some of those who come to a warp's barrier may go on at once, and the others wait here meanwhile.
        others |= region.may_wait & 1 << at
        before = pending.get(target)
        if before is None or others & ~before:
            pending[target] = (before or 0) | others
            heappush(work, at)

    stopped: set[int] = set()
    while work or stopped:
        if not work:
            # Lanes have stopped at a warp's barrier: any that wait run, first those that have not stopped.
            together = 0
            for waiting in stopped:
                together |= waiting
            # Where there are many sets, what follows from all of them together: more may seem to wait.
            for waiting in stopped if len(stopped) <= FEW_STOPS else [together]:
                for at in bits(waiting & ~barriers):
                    reach(at, waiting & (region.may_wait | barriers | -2 << at) & ~(1 << at))
            stopped.clear()
            continue
        number = region.order[heappop(work)]
        while work and region.order[work[0]] == number:
            heappop(work)
        block, waiting = blocks[number], pending[number]
        if number in joints and number != region.entry:
            continue
        if region.may_wait >> place[number] & 1 and (waiting, -2) not in known:
            known.add((waiting, -2))
            stopped.add(waiting)
        for group in _arms(block, number in parting):
            together, stop = waiting, -1
            for target in group:
                together |= 1 << place[target]
                stop = max(stop, place[target])
            while together and (together, stop) not in known:
                known.add((together, stop))
                low = together & -together
                at = low.bit_length() - 1
                reach(at, together ^ low)
                # Lanes surely go to one of the group; those that only wait may turn out to be none.
                if at == stop:
                    break
                together ^= low
    region.pending = {number: pending.get(number, 0) for number in region.order}
    _note(region, blocks)


def _note(region: Region, blocks: list[Block]) -> None:
    """What follows from who waits where."""
    place = region.place
    waited_for = 0
    for others in region.pending.values():
        waited_for |= others
    waited = {region.order[at] for at in bits(waited_for)}
    region.masked = frozenset(waited | {number for number, others in region.pending.items() if others})
    region.headers = 0
    for number in region.order:
        for target in blocks[number].targets if blocks[number].ending != "barrier" else ():
            if place.get(target, len(place)) <= place[number]:
                region.headers |= 1 << place[target]


def _arms(block: Block, parts: bool) -> list[tuple[int, ...]]:
    """The sets of targets that lanes go to together: all at once if they part, else one by one."""
    if block.ending in ("exit", "barrier"):
        return [()]
    return [block.targets] if parts else [(target,) for target in dict.fromkeys(block.targets)]


def items(block: Block) -> Iterator[Instruction]:
    """A block's instructions, the last one too."""
    yield from block.instructions
    if block.last is not None:
        yield block.last


def _waiting(order: list[int], successors: dict[int, tuple[int, ...]]) -> int:
    """How many blocks are waited for while each of the others runs, in all, if lanes part everywhere."""
    place = {number: at for at, number in enumerate(order)}
    first: dict[int, int] = {}
    for at, number in enumerate(order):
        for target in successors[number]:
            if target in place:
                first.setdefault(target, at)
    return sum(max(place[number] - at - 1, 0) for number, at in first.items())


def _closure(successors: dict[int, tuple[int, ...]]) -> tuple[list[int], set[int]]:
    """For every block the set of those that can follow, itself included; and the blocks within loops."""
    behind = [0] * len(successors)
    repeated: set[int] = set()
    for component in reversed(components(0, successors)):
        found = 0
        for number in component:
            found |= 1 << number
            for target in successors[number]:
                found |= behind[target]
        for number in component:
            behind[number] = found
        if len(component) > 1 or component[0] in successors[component[0]]:
            repeated.update(component)
    return behind, repeated


def _dominators(successors: dict[int, tuple[int, ...]]) -> dict[int, int]:
    """For every block, after those that lead to it, the last one that every way to it goes through.

    The algorithm of Cooper, Harvey and Kennedy.
    """
    order = ordered(0, successors)
    place = {number: at for at, number in enumerate(order)}
    before: dict[int, list[int]] = {number: [] for number in order}
    for number in order:
        for target in successors[number]:
            before[target].append(place[number])
    above = [0] + [-1] * (len(order) - 1)
    changed = True
    while changed:
        changed = False
        for at, number in enumerate(order[1:], 1):
            # The latest first: each next one is near to where those before have met.
            known = sorted((b for b in before[number] if above[b] >= 0), reverse=True)
            meeting = known[0]
            for other in known[1:]:
                here = other
                while here != meeting:
                    if here > meeting:
                        here = above[here]
                    else:
                        meeting = above[meeting]
            changed |= above[at] != meeting
            above[at] = meeting
    return {number: order[above[at]] for at, number in enumerate(order)}
