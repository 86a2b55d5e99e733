"""Transports: what moves bytes between ranks, and what they do about one another's end.

Each caller asks for what it needs: a strategy for a Communicator, whoever ends ranks for a GroupControl.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from nnkit.contracts.devices import Array


@dataclass
class Traffic:
    """What a rank's sums have cost so far."""

    sums: int = 0
    bytes: int = 0
    """The size of what was summed, once a sum: not what an algorithm makes of it on the wire."""
    exposed: float = 0.0
    """Seconds in which this rank did nothing else."""
    hidden: float = 0.0
    """Seconds in which sums were under way while this rank computed."""
    under_way: int = 0
    """Sums that have begun and are not complete."""
    left: float = 0.0
    """When this rank last came back from a call of a sum, by time.perf_counter()."""


class Sum(Protocol):
    """A sum over ranks that has begun."""

    def progress(self) -> bool:
        """Let it go on as far as it can without waiting; whether it is complete."""

    def wait(self) -> None:
        """Return when it is complete. Raises RankLostError if it cannot be."""


class Communicator(Protocol):
    """Ranks that communicate: collective operations, called by all of them in the same order.

    Every method that meets other ranks raises `nnkit.errors.RankLostError` where one of them is gone.
    """

    @property
    def rank(self) -> int:
        """This rank's number, from 0."""

    @property
    def size(self) -> int:
        """How many ranks there are."""

    def start_sum(self, array: Array) -> Sum:
        """Begin to replace the array by its sum over ranks; it must not be touched until that is complete."""

    def sum(self, array: Array) -> None:
        """Replace the array by its sum over ranks: where nothing could be done meanwhile the faster way."""

    def exchange(self, item: Any) -> list[Any]:
        """Every rank's item (anything that can be pickled), in the order of the ranks."""

    def gather(self, item: Any) -> list[Any]:
        """On rank 0 every rank's item, in the order of the ranks; on the others nothing."""

    def broadcast(self, item: Any, root: int = 0) -> Any:
        """The item of rank `root`."""

    def shift(self, item: Any) -> Any:
        """Give the item to the next rank, get that of the rank before; the last one's goes to rank 0."""

    def split(self, group: int) -> "Communicator":
        """The ranks that give the same number, in their present order, as a communicator of their own."""


class GroupControl(Protocol):
    """What ranks do about the group as a whole: how it works, the loss of some, and the end of all."""

    def check_survives(self) -> None:
        """Raise ValueError, in one line, if the loss of a rank is the end of all."""

    def settle(self, *, deterministic: bool, elastic: bool) -> None:
        """How to go about it: all ranks have been found to say the same. Called once, before the first sum.

        `deterministic`: the same bits in every run. `elastic`: the loss of a rank leaves the others working.
        """

    def revoke(self) -> None:
        """Whoever waits in a call of this transport, or of one split off, gets a RankLostError.

        After that it is good for `agree` and `recover` alone.
        """

    def agree(self, flag: bool) -> bool:
        """Whether all ranks are there and say yes. All get the same answer, even if one dies meanwhile."""

    def recover(self) -> "Transport":
        """After `agree` has said no: a transport of those that are left, in their present order."""

    @property
    def current(self) -> "Transport":
        """Itself, or what its recoveries have made of it."""

    def confer(self, failure: str, others: int) -> tuple[bool, bool]:
        """This rank has met such a failure: (whether it is the one to say so, whether all `others` have too).

        Must come back soon, whatever the others do; (True, False) where ranks cannot tell each other.
        """

    def leave(self, status: int) -> None:
        """All ranks have done their work. Ends the process where a regular end would wait for lost ranks."""

    def abort(self, status: int) -> None:
        """End all ranks, now, with that exit status."""


class Transport(Communicator, GroupControl, Protocol):
    """One rank's end of what connects all of them."""

    @property
    def name(self) -> str:
        """How bytes move: "single", "threads", "mpi"."""

    @property
    def traffic(self) -> Traffic:
        """What the sums have cost; the communicators that are split off share it."""


class TransportBackend(Protocol):
    """A way to connect ranks, each of which is a process that a launcher has started."""

    @property
    def name(self) -> str:
        """What `--transport` calls it."""

    def connect(self, rank: int, size: int, *, elastic: bool) -> Transport:
        """Meet the others: this process is that rank of so many.

        `elastic`: ranks may be lost from now on. Raises ValueError, in one line, where it cannot be.
        """
