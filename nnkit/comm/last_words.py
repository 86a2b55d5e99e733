"""Which rank says what has ended several at once: a broken kernel fails on all ranks, and is told once."""

import contextlib
import time

from nnkit.comm import mpi_library

TAG = 32767
"""The largest that every MPI has."""

PATIENCE = 1.0
"""Seconds in which ranks that fail together find out about each other."""


def speaks(kind: str) -> bool:
    """Whether this rank is the one to say it; no, if another does that has met the same kind of failure.

    Of those that fail within PATIENCE the first one speaks, and it never waits. Ranks that work or wait for a
    sum hear nothing of it, and a message to them costs them nothing.
    """
    mpi = mpi_library.load()
    world = mpi.COMM_WORLD
    rank, size = world.Get_rank(), world.Get_size()
    sent = []

    def tell(others: range) -> None:
        for other in others:
            with contextlib.suppress(mpi.Exception):
                sent.append(world.isend(kind, other, TAG))

    def is_said(by: int) -> bool:
        # One by one: a message from anyone is an error where anyone has been lost.
        with contextlib.suppress(mpi.Exception):
            while world.iprobe(by, TAG):
                if world.recv(source=by, tag=TAG) == kind:
                    return True
        return False

    tell(range(rank + 1, size))
    end = time.monotonic() + (PATIENCE if rank else 0)
    while not any(is_said(other) for other in range(size) if other != rank):
        if time.monotonic() >= end:
            # Those before it that fail later find it said.
            tell(range(rank))
            return True
        time.sleep(0.01)
    return False
