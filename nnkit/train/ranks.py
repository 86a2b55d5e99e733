"""This rank among the others: its transport, the strategy made for it, and calls that need everybody."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from nnkit.comm.single import SingleTransport
from nnkit.contracts import CommBackend, Strategy, Task, Transport
from nnkit.cost.grids import best_grid, predictable
from nnkit.errors import CommonError, NnkitError, RankLostError, UsageError
from nnkit.plugins import Registry
from nnkit.train.slices import Rectangle, cover, places

Result = TypeVar("Result")
Number = TypeVar("Number", np.float64, np.int64)


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
        return float(self.sum(np.array(value)))

    def sum(self, own: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """The same of arrays."""
        if self.size == 1:
            return own
        said = self.transport.exchange(own if self.strategy.first_reader else np.zeros_like(own))
        total: npt.NDArray[Number] = np.add.reduce(said)
        return total

    def all(self, flag: bool) -> bool:
        """Whether every rank says yes."""
        return flag if self.size == 1 else all(self.transport.exchange(flag))

    def first_does(self, action: Callable[[], None]) -> None:
        """Something that needs one rank, with one outcome: where it fails all of them raise a CommonError."""
        if self.size == 1:
            action()
            return
        problem: NnkitError | None = None
        if self.is_first:
            try:
                action()
            except NnkitError as error:
                problem = error
        problem = self.transport.broadcast(problem)
        if problem is not None:
            raise CommonError(str(problem), problem.exit_status)

    def attempt(self, action: Callable[[], Result], recover: Callable[[], None]) -> Result:
        """Do something together, all or nobody: who comes back from it knows that all have done it.

        If a rank is lost on the way, `recover` is called and the action repeated. What follows an attempt may
        change this rank's state, but must not need the others.
        """
        if not self.elastic or self.size == 1:
            return action()
        while (outcome := self.agreed(action)) is None:
            recover()
        return outcome()

    def agreed(self, action: Callable[[], Result]) -> Callable[[], Result] | None:
        """Do something together; what returns its result, or raises its CommonError; None after a loss."""
        outcome: Callable[[], Result] | None = None
        try:
            outcome = partial(_returned, action())
        except CommonError as error:
            # Some may not have met it, as they miss a rank's part: all or nobody goes on with that too.
            outcome = partial(_raised, error)
        except RankLostError:
            # The others may wait for this rank's part of the action: none will come.
            self.transport.revoke()
        return outcome if self.transport.agree(outcome is not None) else None

    def shrink(self) -> None:
        """Go on with those that are left; `place` must follow."""
        before = self.size
        self.transport = self.transport.recover()
        # What was under way with the lost ones never ends.
        self.transport.traffic.under_way = 0
        self.lost += before - self.size
        # The grid that was asked for was for more ranks.
        self.task = replace(self.task, grid=None)

    def place(self) -> None:
        """Split the network and the batch over the ranks that there are."""
        try:
            self.strategy: Strategy = self.backend.strategy(self.transport, self._with_grid())
        except ValueError as error:
            raise UsageError(str(error)) from None
        self.places = places(self.strategy, self.task.sizes)
        said = self.transport.exchange((self.places, *map(self._samples, self._batches)))
        self._check([held for held, *_ in said], [each for _, *each in said])
        # Whether each rank has all that the others have: the same answer everywhere.
        self.is_split = not all(cover(self.task.sizes, [held]) for held, *_ in said)

    @property
    def _batches(self) -> tuple[int, ...]:
        """A whole batch, and the shortest that there can be."""
        return self.task.batch, 1

    def _samples(self, batch: int) -> range:
        """What of a batch counts as this rank's."""
        return range(batch)[self.strategy.samples(batch)] if self.strategy.first_reader else range(0)

    def _check(self, held: Sequence[Sequence[Rectangle]], samples: Sequence[Sequence[range]]) -> None:
        """Raise UsageError unless the ranks have the whole network between them, and each sample once."""
        wrong = f"--comm {self.backend.name}: its strategy is wrong:"
        if not cover(self.task.sizes, held):
            raise UsageError(f"{wrong} the parts of the network that ranks hold do not make the whole")
        for batch, parts in zip(self._batches, zip(*samples, strict=True), strict=True):
            if sorted(sample for part in parts for sample in part) != list(range(batch)):
                raise UsageError(f"{wrong} of a batch of {batch} not every sample is computed exactly once")

    def _with_grid(self) -> Task:
        """The task with the grid that the cost model finds fastest, for a strategy that has a choice."""
        task, known = self.task, predictable(self.backend)
        if task.grid is not None or known is None or len(known.grids(self.size)) < 2:
            return task
        # Where any grid leaves some rank without work the strategy may choose.
        with contextlib.suppress(UsageError):
            return replace(task, grid=best_grid(known, task, self.size))
        return task


def _returned(result: Result) -> Result:
    return result


def _raised(error: CommonError) -> NoReturn:
    raise error
