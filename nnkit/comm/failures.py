"""What ranks that fail tell each other: a broken kernel fails on all of them, and is told once."""

import contextlib
import time

from nnkit.comm import mpi_library

TAG = 32767
"""The largest that every MPI has."""

PATIENCE = 1.0
"""Seconds in which ranks that fail together find out about each other."""

FAILED, SAID = "failed", "said"


def compare(kind: str, others: int) -> tuple[bool, bool]:
    """(whether this rank is the one to say what kind of failure it met, whether all `others` meet it too).

    The first of those that fail alike within PATIENCE speaks. Ranks that work or wait for a sum hear nothing
    of it, and a message to them costs them nothing. With `others` 0 nobody is waited for in vain.
    """
    mpi = mpi_library.load()
    world = mpi.COMM_WORLD
    rank, size = world.Get_rank(), world.Get_size()
    sent = []

    def tell(word: str, receivers: range) -> None:
        for other in receivers:
            if other != rank:
                with contextlib.suppress(mpi.Exception):
                    sent.append(world.isend((word, kind), other, TAG))

    def told(by: int) -> set[str]:
        words = set()
        # One by one: a message from anyone is an error where anyone has been lost.
        with contextlib.suppress(mpi.Exception):
            while world.iprobe(by, TAG):
                word, theirs = world.recv(source=by, tag=TAG)
                if theirs == kind:
                    words.add(word)
        return words

    tell(FAILED, range(size))
    end = time.monotonic() + PATIENCE
    alike: set[int] = set()
    speaks = True
    while True:
        for other in range(size):
            words = told(other) if other != rank else set()
            alike |= {other} if words else set()
            speaks = speaks and not (SAID in words or (words and other < rank))
        decided = len(alike) >= others if others else rank == 0 or not speaks
        if decided or time.monotonic() >= end:
            break
        time.sleep(0.01)
    if speaks:
        # Those before it that fail later find it said.
        tell(SAID, range(rank))
    return speaks, bool(others) and len(alike) >= others
