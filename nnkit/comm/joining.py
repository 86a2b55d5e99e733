"""How a rank joins the others: all of them alike, or none, and what stands in the way is said once."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar, cast

from nnkit.comm.ending import OTHERS_WAIT, fail, say
from nnkit.comm.world import world_from_environment
from nnkit.errors import Ended, NnkitError, RankLostError, UsageError, reason
from nnkit.version import __version__

if TYPE_CHECKING:
    from nnkit.contracts import Communicator, Transport, TransportBackend

Result = TypeVar("Result")

FIRST_WAITS = 0.5
"""Seconds that the first one gives the others to begin."""


def usual_transport() -> str:
    """The name of the transport where none was asked for: MPI is touched only where there are others."""
    _, size = world_from_environment() or (0, 1)
    return "single" if size == 1 else "mpi"


def open_transport(
    backend: "TransportBackend", *, deterministic: bool = False, elastic: bool = False
) -> "Transport":
    """What moves bytes between this rank and the others, by that transport."""
    rank, size = world_from_environment() or (0, 1)
    with in_turn(), _in_one_line():
        transport = backend.connect(rank, size, elastic=elastic)
    if transport.size == 1:
        return transport
    # How ranks talk to each other depends on these, so they are compared before anything else.
    facts = {"--deterministic": deterministic, "--elastic": elastic}

    def check() -> None:
        with _in_one_line():
            if elastic:
                transport.check_survives()

    try:
        prepare(transport, facts, check)
    except RankLostError as error:
        fail(transport, elastic, error)
    transport.settle(deterministic=deterministic, elastic=elastic)
    return transport


@contextlib.contextmanager
def _in_one_line() -> Iterator[None]:
    """A transport's ValueErrors are meant for the user."""
    try:
        yield
    except ValueError as error:
        raise UsageError(reason(error)) from None


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
        say(f"nnkit: {f'rank {rank}: ' if rank else ''}{error}")
        if not rank:
            time.sleep(FIRST_WAITS)
        raise Ended(error.exit_status) from None


def prepare(transport: "Communicator", facts: dict[str, Any], action: Callable[[], Result]) -> Result:
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


def _end(transport: "Communicator", message: str) -> None:
    """All ranks end with status 2; the first one says why."""
    if transport.rank == 0:
        say(f"nnkit: {message}")
    raise Ended(2)
