"""A sum over MPI ranks that depends on nothing but the numbers: always added in the order of the ranks.

Each rank owns a part of the buffer. It gets that part of everybody else, adds them up, and gives the result
to all: two rounds, in which each rank sends 2 (P - 1) / P of the buffer. Made of single messages, which a
lost rank ends with an error at all that wait for it, and polled, so that ranks that share a core let each
other work.
"""

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from nnkit.contracts import part

TAGS = 8192
"""How many sums may be told apart while they are under way; MPI promises tags up to 32767."""


class OrderedSum:
    """A sum that has begun."""

    def __init__(self, comm: Any, buffer: npt.NDArray[Any], number: int):
        self.comm = comm
        self.tag = 2 * (number % TAGS)
        self.rank, size = comm.Get_rank(), comm.Get_size()
        flat = buffer.reshape(-1)
        self._parts = [flat[part(len(flat), rank, size)] for rank in range(size)]
        self._others = [rank for rank in range(size) if rank != self.rank]
        own = self._parts[self.rank]
        self._got = {rank: np.empty_like(own) for rank in self._others}
        self._requests = self._swap(self.tag, self._parts, self._got)
        self._added = False

    def progress(self) -> bool:
        """Let it go on as far as it can without waiting."""
        if not finished(self._requests):
            return False
        if not self._added:
            self._add()
            return finished(self._requests)
        return True

    def wait(self) -> None:
        """Return when it is complete."""
        while not self.progress():
            os.sched_yield()

    def _add(self) -> None:
        """The first round is complete: add, and begin the second."""
        own = self._parts[self.rank]
        pieces = [own.copy() if rank == self.rank else self._got[rank] for rank in range(len(self._parts))]
        np.copyto(own, pieces[0])
        for piece in pieces[1:]:
            np.add(own, piece, out=own)
        self._requests = self._swap(self.tag + 1, dict.fromkeys(self._others, own), self._parts)
        self._added = True

    def _swap(self, tag: int, outgoing: Any, incoming: Any) -> list[Any]:
        """Messages to and from all others, but for empty ones."""
        senders = [rank for rank in self._others if incoming[rank].size]
        takers = [rank for rank in self._others if outgoing[rank].size]
        requests = [self.comm.Irecv(incoming[rank], rank, tag) for rank in senders]
        return requests + [self.comm.Isend(outgoing[rank], rank, tag) for rank in takers]


def complete(requests: list[Any]) -> None:
    """Wait for all of them; ranks that share a core let each other work."""
    while not finished(requests):
        os.sched_yield()


def finished(requests: list[Any]) -> bool:
    """Whether all are complete; those that are leave the list. Raises what one of them has met.

    One at a time: a test of all together does not say which one failed, and why.
    """
    while requests:
        if not requests[-1].Test():
            return False
        requests.pop()
    return True
