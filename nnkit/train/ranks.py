"""This rank among the others: its transport, its strategy, and collective calls."""

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
from nnkit.train.shards import Rectangle, cover, places

Result = TypeVar("Result")
Number = TypeVar("Number", np.float64, np.int64)


class Ranks:
    """The ranks that train together. With `elastic` they go on when some of them are lost."""

    def __init__(self, transport: Transport, backend: CommBackend, task: Task, elastic: bool = False):
        self.backend = backend
        self.task = task
        self.elastic = elastic
        self.lost = 0
        """How many ranks have been lost since the start."""
        self.transport = transport
        self.partition()

    @classmethod
    def alone(cls, sizes: Sequence[int], batch: int) -> "Ranks":
        """One rank without others."""
        return cls(SingleTransport(), Registry.discover().comm("none"), Task(tuple(sizes), batch))

    @property
    def size(self) -> int:
        """How many ranks there are now."""
        return self.transport.size

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that prints and writes files."""
        return self.transport.rank == 0

    def total(self, value: float) -> float:
        """The sum of a number over ranks. Ranks that compute the same samples count once."""
        return float(self.sum(np.array(value)))

    def sum(self, own: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """The same for an array, element by element."""
        if self.size == 1:
            return own
        said = self.transport.exchange(own if self.strategy.first_reader else np.zeros_like(own))
        total: npt.NDArray[Number] = np.add.reduce(said)
        return total

    def all(self, flag: bool) -> bool:
        """Whether the flag is true on every rank."""
        return flag if self.size == 1 else all(self.transport.exchange(flag))

    def first_does(self, action: Callable[[], None]) -> None:
        """Do something on the first rank alone. If that fails, all ranks raise a CommonError."""
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
        """Run a collective action until it succeeds on all ranks; returns its result.

        If a rank is lost meanwhile, `recover` is called on the others and the action repeated. When a rank
        returns from here, the action is complete on all ranks. So the caller may now change its own state,
        as long as that needs no other rank.
        """
        if not self.elastic or self.size == 1:
            return action()
        while (outcome := self.agreed(action)) is None:
            recover()
        return outcome()

    def agreed(self, action: Callable[[], Result]) -> Callable[[], Result] | None:
        """Run a collective action once, and agree on its outcome.

        Returns a function that returns the action's result or raises its CommonError; None, on all ranks, if
        a rank was lost.
        """
        outcome: Callable[[], Result] | None = None
        try:
            outcome = partial(_returned, action())
        except CommonError as error:
            # Others may have noticed a lost rank before this error. Then all repeat, and nobody raises it.
            outcome = partial(_raised, error)
        except RankLostError:
            # The others may still wait for this rank, which does not complete the action: release them.
            self.transport.revoke()
        return outcome if self.transport.agree(outcome is not None) else None

    def shrink(self) -> None:
        """Continue with the ranks that are left; call `partition` next."""
        before = self.size
        self.transport = self.transport.recover()
        # Sums under way with the lost ranks never complete.
        self.transport.traffic.under_way = 0
        self.lost += before - self.size
        # The user's grid was for the former number of ranks.
        self.task = replace(self.task, grid=None)

    def partition(self) -> None:
        """Split the network and the batch over the ranks. Raises UsageError if the strategy cannot."""
        try:
            self.strategy: Strategy = self.backend.strategy(self.transport, self._with_grid())
        except ValueError as error:
            raise UsageError(str(error)) from None
        self.places = places(self.strategy, self.task.sizes)
        every = self.transport.exchange((self.places, *map(self._samples, self._batches)))
        self._check([held for held, *_ in every], [samples for _, *samples in every])
        # False where each rank has the whole network; all ranks compute the same answer.
        self.is_split = not all(cover(self.task.sizes, [held]) for held, *_ in every)

    @property
    def _batches(self) -> tuple[int, ...]:
        """The batch sizes that a strategy is checked with: the full one, and the shortest possible."""
        return self.task.batch, 1

    def _samples(self, batch: int) -> range:
        """Which of a batch's samples are counted on this rank."""
        return range(batch)[self.strategy.samples(batch)] if self.strategy.first_reader else range(0)

    def _check(self, held: Sequence[Sequence[Rectangle]], samples: Sequence[Sequence[range]]) -> None:
        """Raise UsageError unless the ranks hold the whole network together, and count each sample once."""
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
