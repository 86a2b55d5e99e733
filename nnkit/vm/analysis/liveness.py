"""Liveness: for every block, the registers whose value at its start may still be read."""

from heapq import heapify, heappop, heappush

from nnkit.vm.analysis.blocks import Block
from nnkit.vm.forms.registers import destinations, sources


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
