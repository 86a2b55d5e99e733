"""The transport `threads`: ranks are threads of one process. For tests, and to watch the algorithms at work.

A meeting place holds what the ranks bring to their n-th common call; a call is complete when every rank has
come. Sums are made in the order of the ranks, so they are the same bits on all of them, and in every run.
"""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from nnkit.comm.timed import TimedSum
from nnkit.contracts import Array, Sum, Traffic, Transport
from nnkit.errors import RankLostError

Result = TypeVar("Result")

PATIENCE = 60.0
"""Seconds after which a rank that waits for the others gives up: a test that would hang fails instead."""


class MeetingPlace:
    """What a group of ranks has brought to each of its calls. `ranks` are their numbers in the whole job.

    `generation` counts the recoveries that led to it.
    """

    def __init__(self, job: "Job", ranks: tuple[int, ...], generation: int = 0):
        self.job = job
        self.ranks = ranks
        self.generation = generation
        self.brought: dict[int, dict[int, Any]] = {}
        self.fetched: dict[int, int] = {}
        self.said: dict[int, dict[int, bool]] = {}
        self.decided: dict[int, bool] = {}
        self.revoked = False

    def bring(self, call: int, rank: int, item: Any) -> None:
        """Leave an item there for everybody."""
        with self.job.changed:
            self.brought.setdefault(call, {})[rank] = item
            self.job.changed.notify_all()

    def is_complete(self, call: int) -> bool:
        """Whether everybody has brought something. Raises RankLostError if somebody cannot any more."""
        complete = len(self.brought.get(call, ())) == len(self.ranks)
        if not complete and (self.revoked or self.job.dead & set(self.ranks)):
            self.revoked = True
            dead = sorted(self.job.dead & set(self.ranks))
            raise RankLostError(f"rank {dead[0]} is gone" if dead else "another rank has given up")
        return complete

    def wait(self, call: int) -> None:
        """Until everybody has brought something."""
        with self.job.changed:
            if not self.job.changed.wait_for(lambda: self.is_complete(call), PATIENCE):
                missing = set(range(len(self.ranks))) - set(self.brought[call])
                raise RankLostError(f"ranks {sorted(missing)} do not come: do all make the same calls?")

    def agree(self, call: int, rank: int, flag: bool) -> bool:
        """Whether everybody is there and says yes; decided once, when all that are alive have come."""
        with self.job.changed:
            said = self.said.setdefault(call, {})
            said[rank] = flag
            self.job.changed.notify_all()

            def is_decided() -> bool:
                missing = [each for number, each in enumerate(self.ranks) if number not in said]
                if call not in self.decided and self.job.dead.issuperset(missing):
                    complete = not missing and not self.job.dead & set(self.ranks)
                    self.decided[call] = complete and all(said.values())
                return call in self.decided

            if not self.job.changed.wait_for(is_decided, PATIENCE):
                raise RankLostError("not all ranks come to agree: do all make the same calls?")
            return self.decided[call]

    def fetch(self, call: int) -> list[Any]:
        """What everybody has brought, in order; forgotten when the last one has fetched it."""
        with self.job.changed:
            items = self.brought[call]
            found = [items[rank] for rank in range(len(self.ranks))]
            self.fetched[call] = self.fetched.get(call, 0) + 1
            if self.fetched[call] == len(self.ranks):
                del self.brought[call], self.fetched[call]
            return found


class Job:
    """The ranks of one process."""

    def __init__(self, size: int):
        self.changed = threading.Condition()
        self.dead: set[int] = set()
        self.places: dict[tuple[Any, ...], MeetingPlace] = {}
        self.world = MeetingPlace(self, tuple(range(size)))

    def place(self, key: tuple[Any, ...], ranks: tuple[int, ...], generation: int) -> MeetingPlace:
        """The meeting place of that name; whoever asks first makes it."""
        with self.changed:
            return self.places.setdefault(key, MeetingPlace(self, ranks, generation))

    def revoke(self, generation: int) -> None:
        """Who waits in a place of that generation or an older one gets a RankLostError."""
        with self.changed:
            for place in [self.world, *self.places.values()]:
                place.revoked = place.revoked or place.generation <= generation
            self.changed.notify_all()

    def kill(self, rank: int) -> None:
        """That rank does nothing any more, and the others notice."""
        with self.changed:
            self.dead.add(rank)
            self.changed.notify_all()


class _ThreadSum:
    def __init__(self, transport: "ThreadsTransport", buffer: npt.NDArray[Any]):
        self.transport, self.buffer = transport, buffer
        # A copy: who comes last must not find the results of who came first.
        self.call = transport.bring(buffer.copy())

    def progress(self) -> bool:
        if not self.transport.place.is_complete(self.call):
            return False
        self._add()
        return True

    def wait(self) -> None:
        self.transport.place.wait(self.call)
        self._add()

    def _add(self) -> None:
        items = self.transport.place.fetch(self.call)
        np.copyto(self.buffer, items[0])
        for item in items[1:]:
            np.add(self.buffer, item, out=self.buffer)


class ThreadsTransport:
    """One rank of several in this process."""

    name = "threads"

    def __init__(self, place: MeetingPlace, rank: int, traffic: Traffic | None = None):
        self.place = place
        self.rank = rank
        self.size = len(place.ranks)
        self.traffic = traffic or Traffic()
        self._calls = 0
        self._agreements = 0
        self._next: ThreadsTransport | None = None

    def bring(self, item: Any) -> int:
        """Begin the next common call; returns its number."""
        call, self._calls = self._calls, self._calls + 1
        self.place.bring(call, self.rank, item)
        return call

    def start_sum(self, array: Array) -> Sum:
        """Begin to replace the array by its sum over ranks."""
        return TimedSum(array, lambda buffer: _ThreadSum(self, buffer), self.traffic)

    def sum(self, array: Array) -> None:
        """Replace the array by its sum over ranks."""
        self.start_sum(array).wait()

    def exchange(self, item: Any) -> list[Any]:
        """Every rank's item."""
        call = self.bring(item)
        self.place.wait(call)
        return self.place.fetch(call)

    def gather(self, item: Any) -> list[Any]:
        """Every rank's item, on rank 0."""
        items = self.exchange(item)
        return items if self.rank == 0 else []

    def broadcast(self, item: Any, root: int = 0) -> Any:
        """The item of rank `root`."""
        return self.exchange(item)[root]

    def shift(self, item: Any) -> Any:
        """The item of the rank before."""
        return self.exchange(item)[self.rank - 1]

    def split(self, group: int) -> Transport:
        """The ranks that give the same number."""
        groups = self.exchange(group)
        members = [rank for rank in range(self.size) if groups[rank] == group]
        key = (id(self.place), self._calls, group)
        ranks = tuple(self.place.ranks[rank] for rank in members)
        place = self.place.job.place(key, ranks, self.place.generation)
        return ThreadsTransport(place, members.index(self.rank), self.traffic)

    def check_survives(self) -> None:
        """It is not."""

    def settle(self, *, deterministic: bool, elastic: bool) -> None:
        """Sums are the same in every run anyway."""

    def revoke(self) -> None:
        """Whoever waits in a call of this transport, or of one split off, gets a RankLostError."""
        self.place.job.revoke(self.place.generation)

    def agree(self, flag: bool) -> bool:
        """Whether all ranks are there and say yes."""
        call, self._agreements = self._agreements, self._agreements + 1
        return self.place.agree(call, self.rank, flag)

    def recover(self) -> Transport:
        """A transport of those that are left."""
        job, generation = self.place.job, self.place.generation
        job.revoke(generation)
        while True:
            alive = tuple(rank for rank in self.place.ranks if rank not in job.dead)
            place = job.place((id(self.place), "recovered", alive), alive, generation + 1)
            fresh = ThreadsTransport(place, alive.index(self.place.ranks[self.rank]), self.traffic)
            try:
                fresh.exchange(None)
            except RankLostError:
                continue
            self._next = fresh
            return fresh

    @property
    def current(self) -> "ThreadsTransport":
        """Itself, or what its recoveries have made of it."""
        return self if self._next is None else self._next.current

    def confer(self, failure: str, others: int) -> tuple[bool, bool]:
        """Whoever started the threads sees what ended each."""
        return True, False

    def leave(self, status: int) -> None:
        """The thread ends by itself."""

    def abort(self, status: int) -> None:
        """All other ranks get a RankLostError."""
        self.place.job.kill(self.place.ranks[self.rank])


def run_ranks(
    size: int,
    work: Callable[[ThreadsTransport], Result],
    wrap: Callable[[ThreadsTransport], Any] | None = None,
) -> list[Result | BaseException]:
    """Run `work` as every rank of a job; returns what each has returned, or what ended it.

    `wrap` may put something between a rank and its transport, to listen or to disturb.
    """
    job = Job(size)
    found: list[Any] = [None] * size

    def live(rank: int) -> None:
        transport = ThreadsTransport(job.world, rank)
        try:
            found[rank] = work(wrap(transport) if wrap else transport)
        except BaseException as error:
            found[rank] = error
            job.kill(rank)

    threads = [threading.Thread(target=live, args=(rank,), name=f"rank {rank}") for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
