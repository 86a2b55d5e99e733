"""Collective operations by single messages, added and listed in the order of the ranks.

MPI's own collectives may come back with nonsense where a rank is lost in the middle of them (seen with Open
MPI 5). A single message arrives, or raises an error. And their order is ours: a sum of the same numbers is
the same, bit for bit, whichever rank comes first.
"""

import pickle
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from nnkit.comm.ordered import OrderedSum, complete
from nnkit.contracts import Sum

Pickled = npt.NDArray[np.uint8]
"""A pickled item."""

FIRST_TAG = 16384
TAGS = 8192
"""How many calls may be told apart; the tags below the first are those of the sums."""


class PointToPoint:
    """What the ranks of one communicator do together."""

    def __init__(self, comm: Any):
        self.comm = comm
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.others = [rank for rank in range(self.size) if rank != self.rank]
        self._sums = self._calls = 0
        self._abandoned: list[Any] = []
        """What MPI may still write to, where a lost rank has ended a call: kept for good."""

    def start_sum(self, buffer: Any, now: bool) -> Sum:
        """Begin to replace the buffer by its sum over ranks; there is no faster way for one needed `now`."""
        number, self._sums = self._sums, self._sums + 1
        return OrderedSum(self.comm, buffer, number)

    def exchange(self, item: Any) -> list[Any]:
        """Every rank's item."""
        return self._in_order(item, self._swap(self._to_all(item), self.others))

    def gather(self, item: Any) -> list[Any]:
        """Every rank's item, on rank 0."""
        if self.rank == 0:
            return self._in_order(item, self._swap({}, self.others))
        self._swap({0: _packed(item)}, [])
        return []

    def broadcast(self, item: Any, root: int) -> Any:
        """The item of rank `root`."""
        if self.rank != root:
            return self._swap({}, [root])[root]
        self._swap(self._to_all(item), [])
        return item

    def shift(self, item: Any) -> Any:
        """The item of the rank before."""
        after, before = (self.rank + 1) % self.size, (self.rank - 1) % self.size
        return self._swap({after: _packed(item)}, [before])[before] if self.others else item

    def _in_order(self, own: Any, others: Mapping[int, Any]) -> list[Any]:
        return [own if rank == self.rank else others[rank] for rank in range(self.size)]

    def _to_all(self, item: Any) -> dict[int, Pickled]:
        return dict.fromkeys(self.others, _packed(item))

    def _swap(self, outbox: Mapping[int, Pickled], senders: Iterable[int]) -> dict[int, Any]:
        """Send each rank its item, return what each sender has sent; no rank sends to itself.

        First the length goes out and then the content.
        """
        tag = FIRST_TAG + 2 * (self._calls % TAGS)
        self._calls += 1
        isend, irecv = self.comm.Isend, self.comm.Irecv
        lengths = {rank: np.empty(1, np.int64) for rank in senders}
        incoming = [irecv(length, rank, tag) for rank, length in lengths.items()]
        outgoing = [isend(np.array([item.size]), rank, tag) for rank, item in outbox.items()]
        outgoing += [isend(item, rank, tag + 1) for rank, item in outbox.items()]
        try:
            complete(incoming)
            found = {rank: np.empty(int(length[0]), np.uint8) for rank, length in lengths.items()}
            incoming = [irecv(data, rank, tag + 1) for rank, data in found.items()]
            complete(incoming)
            complete(outgoing)
        except BaseException:
            # Each request holds its buffer.
            self._abandoned += incoming + outgoing
            raise
        return {rank: pickle.loads(data.data) for rank, data in found.items()}


def _packed(item: Any) -> Pickled:
    return np.frombuffer(pickle.dumps(item, 5), np.uint8)
