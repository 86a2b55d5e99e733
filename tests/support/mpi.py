"""Real MPI: whether it is installed, and whether the processes that it started have ended."""

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from nnkit.comm.mpiexec import find_mpi
from nnkit.errors import UsageError


def has_open_mpi() -> bool:
    try:
        return find_mpi().survives
    except UsageError:
        return False


needs_mpi = pytest.mark.skipif(not has_open_mpi(), reason="needs mpiexec of Open MPI 5")


def need_proc() -> None:
    """Skip a test that looks for processes where the system does not show them as files."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("finds processes in /proc")


def alive(process: int) -> bool:
    try:
        return " Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2][:2]
    except OSError:
        return False


def gone(processes: Sequence[int]) -> bool:
    """Whether all processes end within ten seconds."""
    need_proc()
    end = time.monotonic() + 10
    while any(map(alive, processes)) and time.monotonic() < end:
        time.sleep(0.01)
    return not any(map(alive, processes))
