"""What is known before ranks are started: who started this process, and how ranks share a machine.

Nothing here imports MPI or starts a process, so that one process alone never pays for it.
"""

import contextlib
import os
import re
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NNKIT_THREADS")
"""What tells each of the libraries that compute on the CPU how many threads to use."""

_RANK_AND_SIZE = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),  # Open MPI
    ("PMI_RANK", "PMI_SIZE"),  # MPICH, Intel MPI, Slurm with PMI-2
)

_LOCAL_SIZE = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_TASKS_PER_NODE")
_LOCAL_RANK = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")

STATUS_FILE = "STATUS_FOR_NNKIT"
"""Names the file in which ranks that may lose others leave the status they end with.

mpiexec does not know it: under ULFM it reports success where every rank was lost.
"""


def leave_status(status: int) -> None:
    """Tell whoever started the ranks how this one ends, if that was asked for."""
    name = os.environ.get(STATUS_FILE)
    if name:
        with contextlib.suppress(OSError):
            Path(name).write_text(str(status), "ascii")


def world_from_environment(environment: Mapping[str, str] = os.environ) -> tuple[int, int] | None:
    """(rank, size) if an MPI launcher has started this process, else None; does not start MPI."""
    for rank, size in _RANK_AND_SIZE:
        if found := _world(environment.get(rank), environment.get(size)):
            return found
    # A script of sbatch has a SLURM_PROCID but is no step, and a shell of srun --pty is a step of one task:
    # ranks may be started from both.
    if "SLURM_STEP_ID" in environment:
        tasks = environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS"))
        found = _world(environment.get("SLURM_PROCID"), tasks)
        if found and found[1] > 1:
            return found
    return None


def local_rank(environment: Mapping[str, str] = os.environ) -> int:
    """This process's number among the ranks of its host, from 0; 0 where the launcher does not say."""
    return _first_number(_LOCAL_RANK, environment)


def share_threads(environment: MutableMapping[str, str]) -> None:
    """In a rank that somebody else has started: THREAD_VARIABLES for its share of the host, where not set.

    With a thread for every core in every rank an epoch takes a hundred times as long. Must come before NumPy.
    """
    if world_from_environment(environment) is None:
        return
    own = _allowed()
    ranks = _first_number(_LOCAL_SIZE, environment)
    # The launcher's cores are all ranks'; this one's own are fewer where it is bound to some.
    threads = max(1, min(_physical(own), _physical(_allowed(os.getppid()) or own) // max(ranks, 1)))
    for name in THREAD_VARIABLES:
        if not environment.get(name):
            environment[name] = str(threads)


def _world(rank: str | None, size: str | None) -> tuple[int, int] | None:
    """Both as numbers, if they are such of a world."""
    try:
        found = int(rank or ""), int(size or "")
    except ValueError:
        return None
    return found if 0 <= found[0] < found[1] else None


@dataclass(frozen=True)
class Share:
    """How `ranks` ranks share what they run on."""

    ranks: int
    cores: int
    """Of this machine, that this process may use."""
    pinnable: bool = True
    """Whether these are all cores of the machine: a launcher that binds ranks looks at no others' masks."""
    one_host: bool = True

    @property
    def per_rank(self) -> int:
        """The cores that a rank has for itself; 0 if there are too few."""
        return self.cores // self.ranks

    @property
    def crowded(self) -> bool:
        """Whether ranks wait for each other's cores."""
        return self.one_host and self.ranks > self.cores

    def thread_variables(self, environment: Mapping[str, str]) -> dict[str, str]:
        """THREAD_VARIABLES for every rank: as the user has set them, else so that all ranks fit.

        Each library would otherwise start a thread for every core in every rank, and these would fight.
        """
        threads = max(1, self.per_rank) if self.one_host else 1
        return {name: environment.get(name) or str(threads) for name in THREAD_VARIABLES}

    def bound_cores(self, environment: Mapping[str, str]) -> int | None:
        """The cores to bind each rank to; None for no binding: threads need more than a rank's cores."""
        wanted = [_number(value) for value in self.thread_variables(environment).values()]
        fits = 0 < max(wanted) <= self.per_rank
        return self.per_rank if self.one_host and self.pinnable and fits else None


def _first_number(names: Iterable[str], environment: Mapping[str, str]) -> int:
    """What the first of these variables that there is says; 0 without any."""
    return next((_number(environment[name]) for name in names if name in environment), 0)


def _number(text: str) -> int:
    """The first one: OMP_NUM_THREADS=4,2 begins with the outer level; for Slurm 8(x2) is 8 on two hosts."""
    first = re.split(r"[,(]", text, maxsplit=1)[0].strip()
    return int(first) if first.isdecimal() else 0


def share_of_this_machine(ranks: int, hostfile: Path | None, environment: Mapping[str, str]) -> Share:
    """How `ranks` ranks share this machine; or several, if there is a host file or a Slurm job has them."""
    allowed = _allowed()
    one_host = hostfile is None and environment.get("SLURM_JOB_NUM_NODES", "1") == "1"
    return Share(ranks, _physical(allowed), len(allowed) == (os.cpu_count() or 1), one_host)


def _allowed(process: int = 0) -> frozenset[int]:
    """The processors that this process may use, or another one; none if that cannot be found out."""
    if not hasattr(os, "sched_getaffinity"):
        return frozenset(range(os.cpu_count() or 1))
    try:
        return frozenset(os.sched_getaffinity(process))
    except OSError:
        return frozenset()


def _physical(processors: frozenset[int]) -> int:
    """The cores behind the processors: hardware threads of one core count once, as for mpiexec."""
    cores = set()
    for processor in processors:
        place = Path(f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list")
        try:
            cores.add(place.read_text("ascii").strip())
        except OSError:
            cores.add(str(processor))
    return max(1, len(cores))


def open_mpi_flags(
    share: Share,
    environment: Mapping[str, str],
    *,
    hostfile: Path | None = None,
    elastic: bool = False,
) -> list[str]:
    """What `mpiexec` of Open MPI is to be told about placing these ranks."""
    flags = []
    if hostfile is not None:
        flags += ["--hostfile", str(hostfile)]
    if cores := share.bound_cores(environment):
        flags += ["--map-by", f"slot:PE={cores}", "--bind-to", "core"]
    elif share.one_host:
        # It counts neither hardware threads nor cores outside its affinity as we do: no limit but ours.
        flags += ["--map-by", ":OVERSUBSCRIBE", "--bind-to", "none"]
    else:
        # A host file may have more slots than a host has cores.
        flags += ["--bind-to", "core:overload-allowed"]
    if elastic:
        flags += ["--with-ft", "ulfm"]
    if not share.one_host:
        # Other hosts see the variables that are named, and no others.
        names = {name for name in environment if name.startswith("NNKIT_")} | {*THREAD_VARIABLES}
        if "PYTHONPATH" in environment:
            names.add("PYTHONPATH")
        for name in sorted(names):
            flags += ["-x", name]
    return flags


def open_mpi_variables(share: Share, environment: Mapping[str, str], *, root: bool) -> dict[str, str]:
    """The environment of Open MPI for these ranks, where the user has not set it."""
    variables: dict[str, str] = {}
    if root:
        # In a container one is often root, and there it does no harm.
        variables |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    if share.crowded:
        # A rank that waits gives its core to one that works.
        variables["OMPI_MCA_mpi_yield_when_idle"] = "1"
    if share.one_host and not {"OMPI_MCA_pml", "OMPI_MCA_btl"} & environment.keys():
        # Looking for fast networks takes MPI a second at start; ranks on one host meet in shared memory.
        variables |= {"OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": "^ofi"}
    return {name: value for name, value in variables.items() if name not in environment}


def hydra_flags(share: Share, environment: Mapping[str, str], *, hostfile: Path | None = None) -> list[str]:
    """What `mpiexec` of MPICH and Intel MPI is to be told; it passes the environment on by itself."""
    if hostfile is not None:
        return ["-f", str(hostfile)]
    if not share.one_host:
        return []
    cores = share.bound_cores(environment)
    return ["-bind-to", f"core:{cores}" if cores else "none"]
