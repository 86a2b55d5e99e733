"""This rank among the others: its transport, the strategy made for it, and calls that need everybody."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from nnkit.comm.single import SingleTransport
from nnkit.contracts import CommBackend, Strategy, Task, Transport
from nnkit.errors import RankLostError, UsageError
from nnkit.plugins import Registry
from nnkit.train.slices import cover, places

Result = TypeVar("Result")


class Ranks:
    """The ranks that train together. With `elastic` they go on when some of them are lost."""

    def __init__(self, transport: Transport, backend: CommBackend, task: Task, elastic: bool = False):
        self.backend = backend
        self.task = task
        self.elastic = elastic
        self.lost = 0
        """How many ranks are gone since the start."""
        self.transport = transport
        self.place()

    @classmethod
    def alone(cls, sizes: Sequence[int], batch: int) -> "Ranks":
        """One rank without others."""
        return cls(SingleTransport(), Registry.discover().comm("none"), Task(tuple(sizes), batch))

    @property
    def size(self) -> int:
        """How many there are."""
        return self.transport.size

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that prints and writes files."""
        return self.transport.rank == 0

    def total(self, value: float) -> float:
        """The sum of what those ranks say that are the first to compute their samples."""
        if self.size == 1:
            return value
        return float(sum(self.transport.exchange(value if self.strategy.first_reader else 0.0)))

    def sum(self, counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The same of arrays."""
        if self.size == 1:
            return counts
        said = self.transport.exchange(counts if self.strategy.first_reader else np.zeros_like(counts))
        total: npt.NDArray[np.int64] = np.add.reduce(said)
        return total

    def all(self, flag: bool) -> bool:
        """Whether every rank says yes."""
        return flag if self.size == 1 else all(self.transport.exchange(flag))

    def attempt(self, action: Callable[[], Result], recover: Callable[[], None]) -> Result:
        """Do something together, all or nobody: who comes back from it knows that all have done it.

        If a rank is lost on the way, `recover` is called and the action repeated. What follows an attempt may
        change this rank's state, but must not need the others.
        """
        if not self.elastic or self.size == 1:
            return action()
        while True:
            try:
                result, done = action(), True
            except RankLostError:
                # The others may wait for this rank's part of the action: none will come.
                self.transport.revoke()
                done = False
            if self.transport.agree(done):
                return result
            recover()

    def shrink(self) -> None:
        """Go on with those that are left; `place` must follow."""
        before = self.size
        self.transport = self.transport.recover()
        self.lost += before - self.size
        # The grid that was asked for was for more ranks.
        self.task = Task(self.task.sizes, self.task.batch)

    def place(self) -> None:
        """Split the network and the batch over the ranks that there are."""
        try:
            self.strategy: Strategy = self.backend.strategy(self.transport, self.task)
        except ValueError as error:
            raise UsageError(str(error)) from None
        self.places = places(self.strategy, self.task.sizes)
        # Whether each rank has all that the others have: the same answer everywhere.
        self.is_split = not self.all(cover(self.task.sizes, [self.places]))

    def same(self, what: str, item: Any) -> None:
        """Raise UsageError, on all ranks, unless they all say the same of `what`."""
        if self.size == 1:
            return
        said = self.transport.exchange(item)
        for rank, other in enumerate(said):
            if other != said[0]:
                raise UsageError(
                    f"ranks differ in {what}: rank 0 has {said[0]}, rank {rank} has {other}: "
                    "start all of them with the same"
                )
