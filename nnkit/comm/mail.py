"""Objects between MPI ranks by single messages.

MPI's own collectives may come back with nonsense where a rank is lost in the middle of them (seen with Open
MPI 5). A single message arrives, or raises an error. Every rank sends to those it writes to, first the length
and then the content, and waits for those that write to it.
"""

import os
import pickle
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

FIRST_TAG = 16384
TAGS = 8192
"""How many calls may be told apart; the tags below the first are those of the sums."""


def swap(comm: Any, number: int, letters: Mapping[int, Any], writers: Iterable[int]) -> dict[int, Any]:
    """Send each rank its letter, return what each writer has sent; no rank writes to itself.

    `number` counts the calls on this communicator; all ranks must count alike.
    """
    tag = FIRST_TAG + 2 * (number % TAGS)
    content = {rank: np.frombuffer(pickle.dumps(item, 5), np.uint8) for rank, item in letters.items()}
    lengths = {rank: np.empty(1, np.int64) for rank in writers}
    requests = [comm.Irecv(length, rank, tag) for rank, length in lengths.items()]
    requests += [comm.Isend(np.array([data.size]), rank, tag) for rank, data in content.items()]
    requests += [comm.Isend(data, rank, tag + 1) for rank, data in content.items()]
    # The lengths were asked for first; their requests leave a list of their own.
    complete(requests[: len(lengths)])
    found = {rank: np.empty(int(length[0]), np.uint8) for rank, length in lengths.items()}
    requests = requests[len(lengths) :]
    requests += [comm.Irecv(data, rank, tag + 1) for rank, data in found.items()]
    complete(requests)
    return {rank: pickle.loads(data.data) for rank, data in found.items()}


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
