"""The loop over a block's strands, in LLVM IR, run alone: regions, and what opens barriers, are in Python."""

import random
from collections.abc import Callable

import numpy as np

from nnkit.vm.analysis.geometry import Launch
from nnkit.vm.analysis.options import Options
from nnkit.vm.code.rounds import block_in_rounds
from nnkit.vm.text.layout import BARRIERS, ENDED, Fault, Worker
from tests.support.alone import Alone, each, finds, words, worker

REGIONS = 4
MEMSET = "declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)\n"
MOST_ROUNDS = 500
"""So that a fault in the loop does not make it endless."""

Call = tuple[int, int, int]
"""Region, first strand, and the one behind the last."""


class Block:
    """A block whose strands do something random whenever they run: wait, go on elsewhere, part or end."""

    def __init__(self, launch: Launch, parts: bool, change: Callable[[str], str]):
        self.launch, self.parts = launch, parts
        self.room = 3 * launch.vectors
        self.resume, self.waits = np.zeros(self.room, np.int32), words(self.room)
        self.record = worker(RESUME=self.resume, BARRIER=self.waits)
        self.rng = random.Random()
        self.calls: list[Call] = []
        self.rounds = 0
        self.fails_at = -1
        python = {f"region{n}__i32__ptr__ptr__i64__i64": self.region(n) for n in range(REGIONS)}
        text = change(MEMSET + block_in_rounds(REGIONS, launch, "", parts))
        self.alone = Alone(text, settle__i32__ptr__ptr__ptr=self.settle, **python)

    @property
    def strands(self) -> int:
        return int(self.record[Worker.STRANDS]) if self.parts else self.launch.vectors

    def region(self, number: int) -> Callable[..., int]:
        """A region of which each strand does one thing."""

        def run(context: int, record: int, first: int, last: int) -> int:
            assert record == self.record.ctypes.data
            self.calls.append((number, first, last))
            for strand in range(first, last):
                self.go_on(strand)
            return int(len(self.calls) == self.fails_at)

        return run

    def go_on(self, strand: int) -> None:
        deed = self.rng.choice(("wait", "wait", "go", "end", "part"))
        self.resume[strand] = ENDED if deed == "end" else self.rng.randrange(1, REGIONS)
        self.waits[strand] = self.rng.randrange(BARRIERS) if deed == "wait" else -1
        if deed == "part" and self.parts and self.strands < self.room:
            self.record[Worker.STRANDS] += 1
            self.resume[self.strands - 1], self.waits[self.strands - 1] = 1, -1

    def settle(self, record: int, resume: int, waits: int) -> int:
        """Lets go who waits, now and then nobody ever."""
        assert (record, resume, waits) == tuple(a.ctypes.data for a in (self.record, self.resume, self.waits))
        self.rounds += 1
        if self.rounds > MOST_ROUNDS or (self.resume[: self.strands] == ENDED).all():
            return 1
        idle = (self.resume == ENDED) | (self.waits >= 0)
        if idle[: self.strands].all() and self.rng.random() < 0.05:
            return 2
        self.waits[self.rng.choices((False, True), k=self.room)] = -1
        return 0

    def begin(self, seed: int) -> None:
        self.rng, self.calls, self.rounds = random.Random(seed), [], 0
        self.resume[:], self.waits[:] = 9, 9
        self.record[Worker.VOTES : Worker.VOTES + 3 * BARRIERS + 1] = 9
        self.record[Worker.FAULT] = 0

    def twin(self) -> int:
        """What `@block` does: neighbours that go on in one region are one call."""
        vectors = self.launch.vectors
        self.resume[:vectors], self.waits[:vectors] = 0, -1
        self.record[Worker.STRANDS] = vectors
        while True:
            # Who parts in this round begins in the next.
            strands, strand = self.strands, 0
            while strand < strands:
                end = strand
                region = int(self.resume[strand])
                while (
                    end < strands and region != ENDED and self.resume[end] == region and self.waits[end] < 0
                ):
                    end += 1
                if end > strand and self.region(region)(0, self.record.ctypes.data, strand, end):
                    return 1
                strand = max(end, strand + 1)
            state = self.settle(*(table.ctypes.data for table in (self.record, self.resume, self.waits)))
            if state:
                return state - 1


def check(change: Callable[[str], str] = lambda text: text) -> None:
    """The same calls in the same order as in Python, and the same end."""
    ends = {0: 0, 1: 0}
    longest = 0
    for vectors in (1, 2, 5):
        for parts in (False, True):
            block = Block(Launch((16 * vectors, 1, 1), True, Options(16)), parts, change)
            for seed in range(60):
                block.fails_at = -1 if seed % 4 else 7
                block.begin(seed)
                ending = block.alone.block(0, block.record)
                calls, fault = block.calls, Fault(block.record[Worker.FAULT])
                assert not block.record[Worker.VOTES : Worker.VOTES + 3 * BARRIERS].any()
                assert block.record[Worker.VOTES + 3 * BARRIERS] == 9
                block.begin(seed)
                assert ending == block.twin()
                assert calls == block.calls
                assert fault == (Fault.DEADLOCK if ending and len(calls) != block.fails_at else Fault.NONE)
                ends[ending] += 1
                longest = max([longest, *(last - first for _, first, last in calls)])
    assert min(ends.values()) > 50, ends
    assert longest == 5


def test_the_rounds_are_those_of_the_twin() -> None:
    check()


FAULTS = (
    ("%ended = icmp slt i32 %region, 0", "%ended = icmp slt i32 %region, 1"),
    ("%idle = or i1 %ended, %waiting", "%idle = or i1 %ended, false"),
    ("%e.too = and i1 %e.same, %e.runs", "%e.too = and i1 %e.same, true"),
    ("%e.same = icmp eq i32 %e.region, %region", "%e.same = icmp eq i32 0, 0"),
    ("%s.skipped = add i64 %s, 1", "%s.skipped = add i64 %s, 2"),
    ("%failed = icmp ne i32 %error, 0", "%failed = icmp ne i32 0, 0"),
    ("[ i32 1, label %done i32 2, label %deadlock ]", "[ i32 1, label %done i32 2, label %fail ]"),
    ("ptr %votes, i8 0, i64 384", "ptr %votes, i8 0, i64 376"),
    ("ptr %waits, i8 -1", "ptr %waits, i8 0"),
    ("%e.more = icmp slt i64 %e, %strands", "%e.more = icmp slt i64 %e, 4"),
)


@each(FAULTS)
def test_a_fault_in_it_is_found(fault: tuple[str, str]) -> None:
    finds(check, fault)
