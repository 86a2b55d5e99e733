"""What `nnkit train` does because there may be several ranks: starting them, one voice, one outcome."""

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

from typer.exceptions import Exit

from nnkit import __version__
from nnkit.cli.options import note
from nnkit.comm.world import leave_status, world_from_environment
from nnkit.errors import DivergedError, NnkitError, RankLostError, RanksDisagreeError, UsageError, reason

if TYPE_CHECKING:
    from nnkit.contracts import Transport

Result = TypeVar("Result")

OTHERS_WAIT = 3.0
"""Seconds that a rank gives the first one to say what is wrong with all of them."""

FIRST_WAITS = 0.5
"""Seconds that the first one gives the others to begin."""

COMMON = (DivergedError, RanksDisagreeError)
"""Errors that all ranks find at the same moment."""


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


def start(distribution: Distribution, comm: str, arguments: list[str]) -> int | None:
    """Start the ranks that were asked for and wait for them; None in a process that is a rank itself."""
    from nnkit.comm.launch import launch

    if distribution.ranks is None:
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
    )


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
        _fail(transport, distribution.elastic, error)
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
        _end(transport, text if len(failed) == len(said) else f"rank {rank}: {text}")
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


def together(transport: "Transport", elastic: bool, work: Callable[[], int]) -> int:
    """Work that all ranks do; whatever ends it ends all of them, and is said once.

    What one rank alone meets it says itself, and ends the others; where ranks may be lost it is lost.
    """
    if transport.size == 1:
        return work()
    try:
        status = work()
    except COMMON as error:
        # Found by all ranks together: the first one says it.
        if transport.current.rank == 0:
            note(f"nnkit: {error}")
        status = error.exit_status
    except Exit as stop:
        status = stop.exit_code
    except BaseException as error:
        _fail(transport, elastic, error)
    leave_status(status)
    transport.leave(status)
    return status


def _fail(transport: "Transport", elastic: bool, error: BaseException) -> NoReturn:
    """This rank cannot go on: it ends all, or is lost. Of those that fail alike at once one says it."""
    if elastic and isinstance(error, RankLostError):
        _mourn(transport, error)
    from nnkit.comm.last_words import speaks

    text, status = _in_words(error, transport.rank)
    if speaks(type(error).__name__):
        note(text)
    elif not elastic:
        # Who says it ends the others too.
        time.sleep(OTHERS_WAIT)
    sys.stdout.flush()
    # What Ctrl-C has stopped is not lost.
    if elastic and not isinstance(error, KeyboardInterrupt):
        # Counts if no other goes on.
        leave_status(status)
        # Without a word to MPI, and not by an exit: it is a loss that the others notice, and go on.
        os.kill(os.getpid(), signal.SIGKILL)
    transport.abort(status)
    raise Exit(status)


def _in_words(error: BaseException, rank: int) -> tuple[str, int]:
    """What ended a rank, and the exit status for it."""
    if isinstance(error, RankLostError):
        return (
            f"nnkit: rank {rank}: {error}: the run ends; --elastic goes on without lost ranks",
            error.exit_status,
        )
    if isinstance(error, NnkitError):
        return f"nnkit: rank {rank}: {error}", error.exit_status
    if isinstance(error, KeyboardInterrupt):
        return f"nnkit: rank {rank}: stopped", 130
    if isinstance(error, MemoryError):
        what = f"out of memory: {reason(error)}: give a smaller --batch or --hidden"
        return f"nnkit: rank {rank}: {what}", 2
    # Who wrote what failed wants to see where.
    trace = "".join(traceback.format_exception(error))
    return f"{trace}nnkit: rank {rank} failed: {type(error).__name__}: {reason(error)}", 1


def _mourn(transport: "Transport", error: RankLostError) -> NoReturn:
    """A rank was lost before training, and nobody has anything to go on from; one of those left says so."""
    transport.revoke()
    transport.agree(False)
    left = transport.recover()
    if left.rank == 0:
        note("nnkit: a rank was lost before training began: start again")
    # Not by a regular end, in which MPI would wait for the lost one.
    left.agree(True)
    leave_status(error.exit_status)
    left.abort(error.exit_status)
    raise Exit(error.exit_status)
