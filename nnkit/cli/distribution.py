"""How the ranks of `nnkit train` begin: started by it or by mpirun, all alike, or not at all."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from typer.exceptions import Exit

from nnkit import __version__
from nnkit.cli.options import note
from nnkit.cli.outcome import OTHERS_WAIT, fail
from nnkit.comm.world import world_from_environment
from nnkit.errors import NnkitError, RankLostError, UsageError

if TYPE_CHECKING:
    from nnkit.contracts import Transport

Result = TypeVar("Result")

FIRST_WAITS = 0.5
"""Seconds that the first one gives the others to begin."""


@dataclass(frozen=True)
class Distribution:
    """The options of `nnkit train` that say how ranks are started and what they do besides training."""

    ranks: int | None = None
    hostfile: Path | None = None
    grid: str | None = None
    deterministic: bool = False
    elastic: bool = False
    refresh: int = 1
    paranoid: int = 0

    def __post_init__(self) -> None:
        if self.ranks is not None and self.ranks < 1:
            raise UsageError(f"--ranks {self.ranks}: give 1 or more")
        if self.hostfile is not None and self.ranks is None:
            raise UsageError("--hostfile is for ranks that nnkit starts: add --ranks N")
        if self.refresh < 1:
            raise UsageError(f"--refresh {self.refresh}: give 1 or more steps between two copies")
        if self.refresh > 1 and not self.elastic:
            raise UsageError(f"--refresh {self.refresh}: copies are made with --elastic alone: add it")
        if self.paranoid < 0:
            raise UsageError(f"--paranoid {self.paranoid}: give the steps between two comparisons")
        self.shape()

    def shape(self) -> tuple[int, int] | None:
        """`--grid 4x2` as (4, 2)."""
        if self.grid is None:
            return None
        try:
            over_batch, over_network = (int(part) for part in self.grid.lower().split("x"))
        except ValueError:
            over_batch = over_network = 0
        if over_batch < 1 or over_network < 1:
            raise UsageError(
                f"--grid {self.grid}: give the parts of the batch and of the network, for example 4x2"
            )
        if self.ranks is not None and over_batch * over_network != self.ranks:
            raise UsageError(
                f"--grid {self.grid} makes {over_batch * over_network} ranks, but --ranks is {self.ranks}: "
                "give two factors of that"
            )
        return over_batch, over_network


def start(distribution: Distribution, comm: str, checkpoint: Path | None, arguments: list[str]) -> int | None:
    """Start the ranks that were asked for and wait for them; None in a process that is a rank itself."""
    from nnkit.comm.launch import launch

    if distribution.ranks is None:
        if distribution.elastic and world_from_environment() is None:
            raise UsageError("--elastic is for several ranks: add --ranks N")
        return None
    if world_from_environment() is not None:
        raise UsageError("--ranks inside mpirun: the ranks are started already, so leave --ranks out")
    if distribution.ranks == 1 and distribution.hostfile is None:
        return None
    if comm == "none":
        raise UsageError("--ranks needs a way to share the work: add --comm data, model or hybrid")
    return launch(
        distribution.ranks,
        _without_start(arguments),
        hostfile=distribution.hostfile,
        elastic=distribution.elastic,
        rescue=lambda: _rescue(checkpoint),
    )


def _rescue(checkpoint: Path | None) -> str:
    """How to go on after ranks that were killed, if that can be."""
    from nnkit.train.checkpoints import FILE_NAME

    if checkpoint is None or not (checkpoint / FILE_NAME).exists():
        return ""
    return f"{checkpoint} keeps the last checkpoint, so go on with --checkpoint {checkpoint} --resume"


def _without_start(arguments: list[str]) -> list[str]:
    """The arguments of a rank: those of the command without --ranks and --hostfile."""
    found, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in ("--ranks", "--hostfile"):
            skip = True
        elif not argument.startswith(("--ranks=", "--hostfile=")):
            found.append(argument)
    return found


def open_transport(distribution: Distribution) -> "Transport":
    """What moves bytes between this rank and the others; MPI is touched only where there are others."""
    from nnkit.comm.single import SingleTransport

    world = world_from_environment()
    if world is None or world[1] == 1:
        return SingleTransport()
    from nnkit.comm import mpi

    with in_turn():
        transport = mpi.world(elastic=distribution.elastic)
    # How ranks talk to each other depends on these, so they are compared before anything else.
    facts = {"--deterministic": distribution.deterministic, "--elastic": distribution.elastic}
    try:
        prepare(transport, facts, transport.check_survives if distribution.elastic else lambda: None)
    except RankLostError as error:
        fail(transport, distribution.elastic, error)
    if not any(facts.values()):
        transport.use_collectives()
    return transport


@contextlib.contextmanager
def in_turn() -> Iterator[None]:
    """What a rank finds wrong before it can meet the others, they may find too: the first one says it.

    The others give the launcher time to end them; one that is alone with it says it then. None ends at once:
    Open MPI may wait for good for a rank that has ended before others began.
    """
    try:
        yield
    except NnkitError as error:
        rank, size = world_from_environment() or (0, 1)
        if size == 1:
            raise
        if rank:
            time.sleep(OTHERS_WAIT)
        note(f"nnkit: {f'rank {rank}: ' if rank else ''}{error}")
        if not rank:
            time.sleep(FIRST_WAITS)
        raise Exit(error.exit_status) from None


def check_outside_mpirun(command: str) -> None:
    """Refuse a command that starts ranks itself where that has been done; said once, by the first rank."""
    if world_from_environment() is None:
        return
    with in_turn():
        raise UsageError(f"nnkit {command} inside mpirun: it starts ranks itself, so run it without mpirun")


def prepare(transport: "Transport", facts: dict[str, Any], action: Callable[[], Result]) -> Result:
    """Do what may fail on some ranks alone, before they work together; all end alike, one of them says why.

    `facts` must be equal on all ranks, and may grow until the action is done.
    """
    problem: NnkitError | None = None
    result: Any = None
    try:
        result = action()
    except NnkitError as error:
        problem = error
    if transport.size == 1:
        if problem is not None:
            raise problem
        return cast(Result, result)
    said = transport.exchange((None if problem is None else str(problem), {"nnkit": __version__, **facts}))
    versions = [each["nnkit"] for _, each in said]
    for rank, version in enumerate(versions):
        if version != versions[0]:
            _end(
                transport,
                f"ranks differ: rank 0 has nnkit {versions[0]}, rank {rank} has {version}: install one",
            )
    failed = [(rank, text) for rank, (text, _) in enumerate(said) if text is not None]
    if failed:
        rank, text = failed[0]
        _end(transport, f"rank {rank}: {text}" if rank else text)
    for rank, (_, theirs) in enumerate(said):
        for name, value in said[0][1].items():
            if theirs.get(name) != value:
                _end(
                    transport,
                    f"ranks differ in {name}: rank 0 has {value}, rank {rank} has {theirs.get(name)}: "
                    "start all of them with the same",
                )
    return cast(Result, result)


def _end(transport: "Transport", message: str) -> None:
    """All ranks end with status 2; the first one says why."""
    if transport.rank == 0:
        note(f"nnkit: {message}")
    raise Exit(2)
