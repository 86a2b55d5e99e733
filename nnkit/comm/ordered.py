"""A sum over MPI ranks that depends on nothing but the numbers: always added in the order of the ranks.

Each rank owns a part of the buffer. It gets that part of everybody else, adds them up, and gives the result
to all: two rounds, in which each rank sends 2 (P - 1) / P of the buffer. Made of single messages, which a
lost rank ends with an error at all that wait for it, and polled, so that ranks that share a core let each
other work.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from nnkit.comm.mail import complete, finished

TAGS = 8192
"""How many sums may be told apart while they are under way; MPI promises tags up to 32767."""


class OrderedSum:
    """A sum that has begun."""

    def __init__(self, comm: Any, buffer: npt.NDArray[Any], number: int):
        self.comm = comm
        self.tag = 2 * (number % TAGS)
        self.flat = buffer.reshape(-1)
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        own = self._part(self.rank)
        others = [rank for rank in range(self.size) if rank != self.rank]
        self._others = others
        self._got = {rank: np.empty_like(own) for rank in others}
        self._requests = [comm.Irecv(self._got[rank], rank, self.tag) for rank in others if own.size]
        self._requests += [
            comm.Isend(self._part(rank), rank, self.tag) for rank in others if self._part(rank).size
        ]
        self._collected = False

    def progress(self) -> bool:
        """Let it go on as far as it can without waiting."""
        if not self._arrived():
            return False
        if not self._collected:
            self._spread()
            return self._arrived()
        return True

    def wait(self) -> None:
        """Return when it is complete."""
        complete(self._requests)
        if not self.progress():
            complete(self._requests)

    def _part(self, rank: int) -> npt.NDArray[Any]:
        length = len(self.flat)
        return self.flat[length * rank // self.size : length * (rank + 1) // self.size]

    def _arrived(self) -> bool:
        return finished(self._requests)

    def _spread(self) -> None:
        """The first round is complete: add, and begin the second."""
        own = self._part(self.rank)
        pieces = [own.copy() if rank == self.rank else self._got[rank] for rank in range(self.size)]
        np.copyto(own, pieces[0])
        for piece in pieces[1:]:
            np.add(own, piece, out=own)
        self._requests = [
            self.comm.Irecv(self._part(rank), rank, self.tag + 1)
            for rank in self._others
            if self._part(rank).size
        ]
        self._requests += [self.comm.Isend(own, rank, self.tag + 1) for rank in self._others if own.size]
        self._collected = True
