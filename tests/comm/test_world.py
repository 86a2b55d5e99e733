"""Who is in a world of ranks, and with which flags and variables they are started."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from nnkit.comm import world
from nnkit.comm.world import (
    THREAD_VARIABLES,
    Share,
    hydra_flags,
    local_rank,
    open_mpi_flags,
    open_mpi_variables,
    share_threads,
    world_from_environment,
)


@pytest.mark.parametrize(
    ("environment", "world"),
    [
        ({}, None),
        ({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4"}, (2, 4)),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}, (0, 1)),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, (1, 2)),
        ({"PMI_RANK": "1"}, None),
        ({"PMI_RANK": "2", "PMI_SIZE": "2"}, None),
        ({"PMI_RANK": "-1", "PMI_SIZE": "2"}, None),
        ({"PMI_RANK": "", "PMI_SIZE": "many"}, None),
        # srun: the step's tasks, not the job's.
        ({"SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_NTASKS": "8"}, (3, 8)),
        (
            {
                "SLURM_STEP_ID": "0",
                "SLURM_PROCID": "3",
                "SLURM_NTASKS": "8",
                "SLURM_STEP_NUM_TASKS": "4",
            },
            (3, 4),
        ),
        # A script of sbatch; a shell of srun --pty.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, None),
        ({"SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, None),
    ],
)
def test_the_world_is_that_of_the_launcher(
    environment: Mapping[str, str], world: tuple[int, int] | None
) -> None:
    assert world_from_environment(environment) == world


@pytest.mark.parametrize(
    ("environment", "number"),
    [
        ({}, 0),
        ({"OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}, 1),
        ({"PMI_RANK": "5", "MPI_LOCALRANKID": "3"}, 3),
        ({"SLURM_PROCID": "9", "SLURM_LOCALID": "2"}, 2),
        ({"MPI_LOCALRANKID": "many"}, 0),
    ],
)
def test_ranks_of_a_host_are_counted(environment: Mapping[str, str], number: int) -> None:
    assert local_rank(environment) == number


# How ranks share a machine


@pytest.mark.parametrize(
    ("ranks", "cores", "threads", "flags"),
    [
        (1, 1, "1", ["--map-by", "slot:PE=1", "--bind-to", "core"]),
        (2, 2, "1", ["--map-by", "slot:PE=1", "--bind-to", "core"]),
        (2, 8, "4", ["--map-by", "slot:PE=4", "--bind-to", "core"]),
        (3, 8, "2", ["--map-by", "slot:PE=2", "--bind-to", "core"]),
        (4, 2, "1", ["--map-by", ":OVERSUBSCRIBE", "--bind-to", "none"]),
    ],
)
def test_ranks_are_bound_where_they_fit(ranks: int, cores: int, threads: str, flags: list[str]) -> None:
    share = Share(ranks, cores)
    assert share.thread_variables({}) == dict.fromkeys(THREAD_VARIABLES, threads)
    assert open_mpi_flags(share, {}) == flags
    bound = flags[-1] == "core"
    assert hydra_flags(share, {}) == ["-bind-to", f"core:{threads}" if bound else "none"]
    crowded = open_mpi_variables(share, {}, root=False).get("OMPI_MCA_mpi_yield_when_idle")
    assert crowded == (None if bound else "1")


def test_ranks_are_not_bound_to_cores_of_others() -> None:
    free = ["--map-by", ":OVERSUBSCRIBE", "--bind-to", "none"]
    assert open_mpi_flags(Share(2, 4, pinnable=False), {}) == free
    assert open_mpi_flags(Share(2, 4), {"OMP_NUM_THREADS": "3"}) == free


def test_what_the_user_has_set_stays() -> None:
    mine = {"OMP_NUM_THREADS": "2,1", "NNKIT_THREADS": "1"}
    assert Share(2, 8).thread_variables(mine) == {**dict.fromkeys(THREAD_VARIABLES, "4"), **mine}
    assert Share(2, 8).bound_cores(mine) == 4
    mine = {"OMPI_MCA_btl": "tcp,self", "OMPI_ALLOW_RUN_AS_ROOT": "0", "OMPI_MCA_mpi_yield_when_idle": "0"}
    added = open_mpi_variables(Share(2, 1), mine, root=True)
    assert added == {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def test_several_hosts_are_left_to_mpiexec() -> None:
    share = Share(8, 2, one_host=False)
    environment = {"NNKIT_CACHE_DIR": "/there", "PYTHONPATH": "here", "HOME": "/"}
    flags = open_mpi_flags(share, environment, hostfile=Path("hosts"), elastic=True)
    assert flags[:6] == ["--hostfile", "hosts", "--bind-to", "core:overload-allowed", "--with-ft", "ulfm"]
    assert flags[6::2] == ["-x"] * 6
    assert set(flags[7::2]) == {*THREAD_VARIABLES, "NNKIT_CACHE_DIR", "PYTHONPATH"}
    assert set(share.thread_variables({}).values()) == {"1"}
    assert open_mpi_variables(share, {}, root=False) == {}
    assert hydra_flags(share, {}, hostfile=Path("hosts")) == ["-f", "hosts"]


@pytest.mark.parametrize(
    ("own", "launchers", "local", "threads"),
    [
        (8, 8, "4", "2"),  # not bound
        (1, 8, "4", "1"),  # bound to a core
        (4, 16, "4", "4"),
        (8, 8, "16", "1"),
        (8, 8, "4(x2)", "2"),
        (8, 8, None, "8"),
        (8, 0, "4", "2"),  # of the launcher nothing is known
    ],
)
def test_ranks_started_by_hand_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, own: int, launchers: int, local: str | None, threads: str
) -> None:
    masks = {0: own, os.getppid(): launchers}
    monkeypatch.setattr(world, "_allowed", lambda process=0: frozenset(range(masks[process])))
    monkeypatch.setattr(world, "_physical", len)
    environment = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "32", "SLURM_PROCID": "3"}
    environment |= {"SLURM_STEP_TASKS_PER_NODE": local} if local else {}
    environment["OMP_NUM_THREADS"] = "7"
    share_threads(environment)
    expected = dict.fromkeys(THREAD_VARIABLES, threads) | {"OMP_NUM_THREADS": "7"}
    assert {name: environment[name] for name in THREAD_VARIABLES} == expected


def test_who_is_no_rank_is_left_alone() -> None:
    environment = {"HOME": "/"}
    share_threads(environment)
    assert environment == {"HOME": "/"}
