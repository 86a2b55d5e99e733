"""What strands call when they part and meet again, in LLVM IR, run alone against the same in Python."""

import random
from collections.abc import Callable

import numpy as np

from nnkit.vm.emit.strand_functions import parting, rejoining
from nnkit.vm.text.layout import ENDED, Worker
from tests.support.alone import Alone, each, finds, worker

FRAME = 64
REGIONS = (1, 2, 3)


class Strands:
    """A block's strands, in any state that they can be in."""

    def __init__(self, vectors: int, rng: random.Random):
        self.vectors, self.room = vectors, 6 * vectors
        self.strands = rng.randrange(vectors, 4 * vectors)
        self.resume = np.array([rng.choice((ENDED, *REGIONS)) for _ in range(self.room)], np.int32)
        self.waits = np.array([rng.choice((-1, -1, 0, 3)) for _ in range(self.room)])
        self.alive = np.array([rng.getrandbits(16) for _ in range(self.room)])
        self.frames = np.frombuffer(rng.randbytes(FRAME * self.room), np.uint8).reshape(-1, FRAME).copy()
        self.record = worker(RESUME=self.resume, BARRIER=self.waits, ALIVE=self.alive, FRAMES=self.frames)
        self.record[Worker.STRANDS] = self.strands

    def others(self, strand: int) -> range:
        """The numbers that belong to a strand's vector."""
        return range(strand % self.vectors, self.room, self.vectors)

    def spare(self, strand: int) -> int:
        """What `@spare` does."""
        free = next(s for s in self.others(strand)[1:] if s >= self.strands or self.resume[s] == ENDED)
        self.resume[self.strands : free + 1] = ENDED
        self.strands = max(self.strands, free + 1)
        self.frames[free] = self.frames[strand]
        return free

    def elsewhere(self, strand: int) -> int:
        lanes = 0
        for s in self.others(strand):
            if s < self.strands and s != strand and self.resume[s] != ENDED:
                lanes |= int(self.alive[s])
        return lanes

    def rejoin(self) -> list[tuple[int, int, int, int]]:
        """What `@rejoin` does; returns what moves: region, to, from, lanes."""
        moved = []
        for s in range(self.vectors, self.strands):
            for t in self.others(s):
                both = (self.resume[s], self.waits[s]), (self.resume[t], self.waits[t])
                if t < s and self.resume[s] != ENDED and self.waits[s] < 0 and both[0] == both[1]:
                    moved.append((int(self.resume[s]), t, s, int(self.alive[s])))
                    self.alive[t] |= self.alive[s]
                    self.resume[s] = ENDED
                    break
        return moved

    def tables(self) -> list[list[int]]:
        return [table.ravel().tolist() for table in (self.resume, self.waits, self.alive, self.frames)]


def check(change: Callable[[str], str] = lambda text: text) -> None:
    """All three leave the same behind as in Python."""
    moved: list[tuple[int, int, int, int]] = []

    def meeting(region: int) -> Callable[[int, int, int, int], None]:
        return lambda record, to, source, lanes: moved.append((region, to, source, lanes))

    meetings = {f"meet{region}__void__ptr__i64__i64__i64": meeting(region) for region in REGIONS}
    count = 0
    for vectors in (1, 2, 5):
        alone = Alone(change(parting(vectors, FRAME) + rejoining(vectors, list(REGIONS))), **meetings)
        for seed in range(200):
            mine, theirs = (Strands(vectors, random.Random(seed)) for _ in range(2))
            strand = seed % mine.strands
            assert alone.elsewhere(theirs.record, strand) == mine.elsewhere(strand)
            assert alone.spare(theirs.record, strand) == mine.spare(strand)
            assert theirs.record[Worker.STRANDS] == mine.strands
            assert theirs.tables() == mine.tables()
            moved.clear()
            alone.rejoin(theirs.record)
            assert moved == mine.rejoin()
            assert theirs.tables() == mine.tables()
            count += len(moved)
    assert count > 100


def test_parting_and_meeting_are_those_of_the_twin() -> None:
    check()


FAULTS = (
    ("%fresh = icmp sge i64 %s, %count", "%fresh = icmp sgt i64 %s, %count"),
    ("%free = icmp slt i32 %region, 0", "%free = icmp slt i32 %region, 2"),
    ("icmp sle i64 %u.next, %s", "icmp slt i64 %u.next, %s"),
    ("store i64 %u.next, ptr", "store i64 %s, ptr"),
    ("%from.byte = mul i64 %strand, 64", "%from.byte = mul i64 %s, 64"),
    ("%other = icmp ne i64 %s, %strand", "%other = icmp ne i64 %s, -1"),
    ("%lives = icmp sge i32 %region, 0", "%lives = icmp sge i32 %region, -1"),
    ("%goes = and i1 %lives, %free", "%goes = and i1 %lives, true"),
    ("%t.fits = and i1 %t.same, %t.free", "%t.fits = and i1 %t.same, true"),
    ("%t.more = icmp slt i64 %t, %s", "%t.more = icmp sle i64 %t, %s"),
    ("%together = or i64 %t.lanes, %lanes", "%together = or i64 0, %lanes"),
    ("store i32 -1", "store i32 1"),
)


@each(FAULTS)
def test_a_fault_in_it_is_found(fault: tuple[str, str]) -> None:
    finds(check, fault)
