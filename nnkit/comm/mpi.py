"""The transport `mpi`: ranks of a communicator."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from nnkit.comm import failures, mpi_library
from nnkit.comm.collectives import Collectives
from nnkit.comm.point_to_point import PointToPoint
from nnkit.comm.single import Complete
from nnkit.comm.timed import TimedSum
from nnkit.contracts import Array, Sum, Traffic, Transport
from nnkit.errors import RankLostError

LOST = ("ERR_PROC_FAILED", "ERR_PROC_FAILED_PENDING", "ERR_REVOKED")
"""What MPI calls the loss of a rank, and the news of it."""


def world(*, elastic: bool = False) -> "MpiTransport":
    """The transport of all ranks that the launcher has started. Raises UsageError where there is no MPI."""
    return MpiTransport(mpi_library.start(elastic=elastic), Traffic())


class MpiTransport:
    """One rank of an MPI communicator.

    All goes by single messages, in the order of the ranks, which survives the loss of some; or by MPI's own
    collectives, which are faster.
    """

    name = "mpi"

    def __init__(self, comm: Any, traffic: Traffic, collectives: bool = False):
        self.comm = comm
        self.mpi = mpi_library.load()
        self.traffic = traffic
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()
        self._calls: PointToPoint | Collectives = PointToPoint(comm)
        if collectives:
            self._use_collectives()
        self._parts: list[MpiTransport] = []
        self._begun: list[Sum] = []
        """Sums whose buffers MPI may still write to; kept for good where a lost rank leaves them so."""
        self._former: MpiTransport | None = None
        """What was before the loss of a rank: kept alive, and with it what MPI may still write to."""
        self._next: MpiTransport | None = None
        """What came after it."""
        # Errors come as exceptions, and only those of lost ranks are expected.
        comm.Set_errhandler(self.mpi.ERRORS_RETURN)
        self._lost = frozenset(getattr(self.mpi, name, -1) for name in LOST)

    def check_survives(self) -> None:
        """Raise ValueError if the loss of a rank is the end of all."""
        if not mpi_library.survives(self.comm):
            raise ValueError(
                "--elastic: this MPI does not survive the loss of a rank: start it with "
                "mpirun --with-ft ulfm, or let nnkit train --ranks N start it"
            )

    def settle(self, *, deterministic: bool, elastic: bool) -> None:
        """By MPI's own collectives, where neither their order nor the loss of a rank matters."""
        if not deterministic and not elastic:
            self._use_collectives()

    def _use_collectives(self) -> None:
        self._calls = Collectives(self.comm, self.mpi.IN_PLACE)

    def start_sum(self, array: Array) -> Sum:
        """Begin to replace the array by its sum over ranks."""
        return self._start_sum(array, now=False)

    def sum(self, array: Array) -> None:
        """Replace the array by its sum over ranks."""
        self._start_sum(array, now=True).wait()

    def exchange(self, item: Any) -> list[Any]:
        """Every rank's item."""
        with self._guard():
            return self._calls.exchange(item)

    def gather(self, item: Any) -> list[Any]:
        """Every rank's item, on rank 0."""
        with self._guard():
            return self._calls.gather(item)

    def broadcast(self, item: Any, root: int = 0) -> Any:
        """The item of rank `root`."""
        with self._guard():
            return self._calls.broadcast(item, root)

    def shift(self, item: Any) -> Any:
        """The item of the rank before."""
        with self._guard():
            return self._calls.shift(item)

    def split(self, group: int) -> Transport:
        """The ranks that give the same number."""
        with self._guard():
            part = MpiTransport(self.comm.Split(group, self.rank), self.traffic, self.uses_collectives)
        self._parts.append(part)
        return part

    def revoke(self) -> None:
        """Whoever waits in a call of this transport, or of one split off, gets a RankLostError."""
        for each in (self, *self._parts):
            with contextlib.suppress(self.mpi.Exception):
                each.comm.Revoke()

    def agree(self, flag: bool) -> bool:
        """Whether all that are alive say yes; no, if one of them is gone."""
        try:
            return bool(self.comm.Agree(int(flag)))
        except self.mpi.Exception as error:
            self._check(error)
            return False

    def recover(self) -> Transport:
        """A transport of those that are left."""
        self.revoke()
        fresh = MpiTransport(self.comm.Shrink(), self.traffic, self.uses_collectives)
        fresh._former, self._next = self, fresh
        return fresh

    @property
    def current(self) -> "MpiTransport":
        """Itself, or what its recoveries have made of it."""
        return self if self._next is None else self._next.current

    def confer(self, failure: str, others: int) -> tuple[bool, bool]:
        """By messages that a rank which works or waits for a sum need not hear."""
        return failures.compare(failure, others)

    def leave(self, status: int) -> None:
        """Ends the process where ranks can be lost: MPI_Finalize might wait for good for one that is."""
        if not mpi_library.survives(self.comm):
            return
        self.current.agree(True)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    def abort(self, status: int) -> None:
        """End all ranks."""
        self.mpi.COMM_WORLD.Abort(status)

    @property
    def uses_collectives(self) -> bool:
        """Whether MPI's own collectives serve it."""
        return isinstance(self._calls, Collectives)

    def _start_sum(self, array: Array, now: bool) -> Sum:
        # In the order of the ranks NumPy adds, which sees the host's memory alone.
        direct = self.uses_collectives and mpi_library.reaches_gpus()
        return TimedSum(array, partial(self._begin, now=now), self.traffic, direct)

    def _begin(self, buffer: Any, now: bool) -> Sum:
        if self.size == 1 or not buffer.nbytes:
            return Complete()
        with self._guard():
            begun = self._calls.start_sum(buffer, now)
        self._begun.append(begun)
        return _Guarded(begun, self._guard, self._begun)

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except self.mpi.Exception as error:
            self._check(error)
            raise RankLostError(f"a rank is gone ({error.Get_error_string()})") from None

    def _check(self, error: Any) -> None:
        """Raise the error again unless it is the loss of a rank."""
        if error.Get_error_class() not in self._lost:
            raise error


class _Guarded:
    """A sum whose failures are RankLostErrors."""

    def __init__(
        self, inner: Sum, guard: Callable[[], contextlib.AbstractContextManager[None]], begun: list[Sum]
    ):
        self.inner, self.guard, self.begun = inner, guard, begun

    def progress(self) -> bool:
        with self.guard():
            complete = self.inner.progress()
        if complete:
            self.begun.remove(self.inner)
        return complete

    def wait(self) -> None:
        with self.guard():
            self.inner.wait()
        self.begun.remove(self.inner)
