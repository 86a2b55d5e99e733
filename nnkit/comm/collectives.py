"""Collective operations by those of MPI itself: the fastest there are, as long as no rank is lost.

In which order they add depends on the MPI, and on what it finds at hand.
"""

import os
from typing import Any

from nnkit.comm.single import Complete
from nnkit.contracts import Sum


class Collectives:
    """What the ranks of one communicator do together."""

    def __init__(self, comm: Any, in_place: Any):
        self.comm = comm
        self.in_place = in_place

    def start_sum(self, buffer: Any, now: bool) -> Sum:
        """Begin to replace the buffer by its sum over ranks; with `now` it comes back complete.

        A sum that is begun takes MPI half as long again, and it may move nothing while the rank computes:
        worth it only if there is something to compute.
        """
        if now:
            self.comm.Allreduce(self.in_place, buffer)
            return Complete()
        return _Request(self.comm.Iallreduce(self.in_place, buffer))

    def exchange(self, item: Any) -> list[Any]:
        """Every rank's item."""
        found: list[Any] = self.comm.allgather(item)
        return found

    def gather(self, item: Any) -> list[Any]:
        """Every rank's item, on rank 0."""
        return self.comm.gather(item) or []

    def broadcast(self, item: Any, root: int) -> Any:
        """The item of rank `root`."""
        return self.comm.bcast(item, root)

    def shift(self, item: Any) -> Any:
        """The item of the rank before."""
        rank, size = self.comm.Get_rank(), self.comm.Get_size()
        return self.comm.sendrecv(item, (rank + 1) % size, source=(rank - 1) % size)


class _Request:
    """A sum under way; polled, so that ranks that share a core let each other work."""

    def __init__(self, request: Any):
        self.request = request

    def progress(self) -> bool:
        return bool(self.request.Test())

    def wait(self) -> None:
        while not self.request.Test():
            os.sched_yield()
