"""How work that ranks share ends: for all of them alike, and said once.

What a rank says it writes to standard error itself, before it ends: nobody above it may come to do so.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from nnkit.comm.world import leave_status
from nnkit.errors import STOPPED, CommonError, Ended, NnkitError, RankLostError, lines_of, reason

if TYPE_CHECKING:
    from nnkit.contracts import Transport

OTHERS_WAIT = 3.0
"""Seconds that a rank gives another to say what is wrong with both of them, and to end them."""


class LostAtStart(RankLostError):
    """A rank was lost before training, and those that are left have agreed on it."""


def say(message: str) -> None:
    """A line for people, on standard error."""
    print(message, file=sys.stderr, flush=True)


def together(transport: "Transport", elastic: bool, work: Callable[[], int]) -> int:
    """Work that all ranks do; whatever ends it ends all of them, and is said once.

    What one rank alone meets it says itself, and ends the others; where ranks may be lost it is lost.
    """
    if transport.size == 1:
        return work()
    try:
        status = work()
    except CommonError as error:
        # The first one says it.
        if transport.current.rank == 0:
            say(f"nnkit: {error}")
        status = error.exit_status
    except Ended as stop:
        status = stop.exit_status
    except BaseException as error:
        fail(transport, elastic, error)
    leave_status(status)
    transport.leave(status)
    return status


def fail(transport: "Transport", elastic: bool, error: BaseException) -> NoReturn:
    """This rank cannot go on: it ends all, or is lost. Of those that fail alike at once one says it."""
    if elastic and isinstance(error, RankLostError):
        _end_before_training(transport, error)
    text, status = _in_words(error, transport.rank)
    # Nothing is lost where nobody is left who could go on.
    others = transport.current.size - 1
    loses = elastic and others > 0
    speaks, everybody = transport.confer(type(error).__name__, others if loses else 0)
    if speaks:
        say(text)
    sys.stdout.flush()
    leave_status(status)
    if loses and not everybody:
        # Without a word to MPI, and not by an exit: it is a loss that the others notice, and go on.
        os.kill(os.getpid(), signal.SIGKILL)
    if not speaks:
        # Who says it ends the others too.
        time.sleep(OTHERS_WAIT)
    transport.abort(status)
    raise Ended(status)


def _in_words(error: BaseException, rank: int) -> tuple[str, int]:
    """What ended a rank, and the exit status for it."""
    if isinstance(error, RankLostError):
        return (
            f"nnkit: rank {rank}: {error}: the run ends; --elastic goes on without lost ranks",
            error.exit_status,
        )
    if isinstance(error, NnkitError):
        return f"nnkit: rank {rank}: " + "\n".join(lines_of(error)), error.exit_status
    if isinstance(error, KeyboardInterrupt):
        return f"nnkit: rank {rank}: stopped", STOPPED
    if isinstance(error, MemoryError):
        what = f"out of memory: {reason(error)}: give a smaller --batch or --hidden"
        return f"nnkit: rank {rank}: {what}", 2
    # Who wrote what failed wants to see where.
    trace = "".join(traceback.format_exception(error))
    return f"{trace}nnkit: rank {rank} failed: {type(error).__name__}: {reason(error)}", 1


def _end_before_training(transport: "Transport", error: RankLostError) -> NoReturn:
    """A rank was lost before training, and nobody has anything to go on from; one of those left says so."""
    if not isinstance(error, LostAtStart):
        transport.revoke()
        transport.agree(False)
    left = transport.recover()
    if left.rank == 0:
        say("nnkit: a rank was lost before training began: start again")
    # Not by a regular end, in which MPI would wait for the lost one.
    left.agree(True)
    leave_status(error.exit_status)
    left.abort(error.exit_status)
    raise Ended(error.exit_status)
