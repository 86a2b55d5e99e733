"""Which barriers open, and when: the decision in LLVM IR, run alone, against the same in Python."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnkit.vm.analysis.geometry import Launch
from nnkit.vm.analysis.options import Options
from nnkit.vm.code.barriers import settle
from nnkit.vm.text.layout import BARRIERS, ENDED, Worker
from tests.support.alone import Alone, Words, each, finds, worker

GO_ON, OVER, STUCK = 0, 1, 2
TABLES = (Worker.VOTES, Worker.ARRIVED, Worker.RESULTS)


@dataclass
class State:
    """How a block's strands stand when none runs, or nearly none."""

    launch: Launch
    strands: int
    resume: npt.NDArray[np.int32]
    waits: Words
    record: Words

    @classmethod
    def drawn(cls, launch: Launch, parts: bool, rng: random.Random) -> "State":
        strands = rng.randrange(launch.vectors, 3 * launch.vectors + 1) if parts else launch.vectors
        ended, running = rng.choice((0, 0, 0.3, 1)), rng.choice((0, 0, 0, 0.2))
        numbers = rng.choices(range(BARRIERS), k=rng.choice((1, 1, 2, 3)))
        counts = [*rng.choices(range(launch.threads + 2), k=2), 0, 0, launch.threads, launch.width]
        counts = counts if rng.random() < 0.7 else [0]
        resume = np.array(
            [ENDED if rng.random() < ended else rng.randrange(3) for _ in range(strands)], np.int32
        )
        waits = np.array([rng.choice(numbers) | rng.choice(counts) << 8 for _ in range(strands)])
        for strand in range(strands):
            if resume[strand] == ENDED or rng.random() < running:
                waits[strand] = -1
        record = worker(RESUME=resume, BARRIER=waits)
        record[Worker.STRANDS] = strands
        for table in TABLES:
            record[table : table + BARRIERS] = [
                rng.choice((0, 0, rng.randrange(70))) for _ in range(BARRIERS)
            ]
        return cls(launch, strands, resume, waits, record)

    def copy(self) -> "State":
        return State(self.launch, self.strands, self.resume.copy(), self.waits.copy(), self.record.copy())

    def ready(self, number: int) -> bool:
        """Whether the barrier opens: all threads are there that it waits for, in whole warps."""
        arrived, want, complete = int(self.record[Worker.ARRIVED + number]), -1, True
        for vector in range(self.launch.vectors):
            lives = [s for s in range(vector, self.strands, self.launch.vectors) if self.resume[s] != ENDED]
            here = [s for s in lives if self.waits[s] >= 0 and self.waits[s] & 255 == number]
            if here:
                want = int(self.waits[here[-1]]) >> 8
            if lives and len(here) == len(lives):
                arrived += min(self.launch.width, self.launch.threads - vector * self.launch.width)
            complete &= len(here) == len(lives)
        return arrived >= want if want > 0 else want == 0 and (complete or arrived >= self.launch.threads)

    def open(self, number: int) -> None:
        votes, arrived, results = (table + number for table in TABLES)
        self.record[results] = self.record[votes]
        self.record[votes] = self.record[arrived] = 0
        self.waits[self.waits & 255 == number] = -1

    def settle(self) -> int:
        """What `@settle` does."""
        lives = self.waits[self.resume != ENDED]
        if not lives.size:
            return OVER
        if (lives < 0).any():
            return GO_ON
        ready = [number for number in range(BARRIERS) if self.ready(number)]
        for number in ready:
            self.open(number)
        return GO_ON if ready else STUCK


def check(change: Callable[[str], str] = lambda text: text) -> None:
    """The text does what Python does, for many states of blocks of several sizes."""
    seen: dict[int, int] = dict.fromkeys((GO_ON, OVER, STUCK), 0)
    for seed, (threads, width) in enumerate(
        ((1, 1), (70, 16), (16, 16), (96, 32), (5, 1), (100, 32), (64, 8))
    ):
        for parts in (False, True):
            launch, rng = Launch((threads, 1, 1), True, Options(width)), random.Random(seed)
            met: list[int] = []
            text = change(settle(launch, parts))
            alone = Alone(text, **({"rejoin__void__ptr": met.append} if parts else {}))
            for _ in range(300):
                mine = State.drawn(launch, parts, rng)
                theirs = mine.copy()
                before = mine.waits.copy()
                met.clear()
                found = alone.settle(theirs.record, theirs.resume, theirs.waits)
                assert found == mine.settle()
                assert (theirs.waits == mine.waits).all()
                for table in TABLES:
                    words = slice(table, table + BARRIERS)
                    assert (theirs.record[words] == mine.record[words]).all()
                # Strands that were let go meet again.
                assert len(met) == (parts and bool((before != mine.waits).any()))
                seen[found] += 1
    assert all(count > 100 for count in seen.values()), seen


def test_the_decision_is_that_of_its_twin() -> None:
    check()


FAULTS = (
    ("%running = icmp slt i64 %some.next, 0", "%running = icmp slt i64 %all.next, 0"),
    ("%usual = and i1 %for.all, %same", "%usual = or i1 %for.all, %same"),
    ("select i1 %lives, i64 %word, i64 0", "select i1 %lives, i64 %word, i64 -1"),
    ("icmp sge i64 %sum.next, %want.next", "icmp sgt i64 %sum.next, %want.next"),
    ("%complete = or i1 %enough, %everyone", "%complete = or i1 false, %everyone"),
    ("or i1 %all.next, %total", "or i1 %all.next, false"),
    ("%short = icmp slt i64 %left", "%short = icmp sgt i64 %left"),
    ("%not.elsewhere = icmp ne i32 %state, 2", "%not.elsewhere = icmp eq i32 %state, 1"),
    ("%wholly.here = icmp eq i32 %state, 1", "%wholly.here = icmp ne i32 %state, 2"),
    ("%right.one = and i1 %right, %waiting", "%right.one = or i1 %right, %waiting"),
    ("select i1 %here, i64 %word, i64 %found", "select i1 %lives, i64 %word, i64 %found"),
    ("store i64 %votes", "store i64 0"),
    ("icmp slt i64 %n.next, 16", "icmp slt i64 %n.next, 15"),
    ("icmp slt i64 %s.next, %strands", "icmp slt i64 %s.next, 3"),
    ("call void @rejoin(ptr %wk)", ""),
)


@each(FAULTS)
def test_a_fault_in_it_is_found(fault: tuple[str, str]) -> None:
    finds(check, fault)
