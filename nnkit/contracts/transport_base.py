"""A base for transports: what can be made of an exchange alone, and a group that ends with any rank."""

import os
from time import perf_counter
from typing import Any, Self

from nnkit.contracts.devices import Array
from nnkit.contracts.transport import Communicator, Sum, Traffic, Transport


class TransportBase:
    """What a transport need not do: all but `name`, `rank`, `size`, `traffic`, `exchange` and `split`.

    Sums go through `exchange`, in the order of the ranks, and are waited for. The loss of one rank is the end
    of all.
    """

    name: str
    rank: int
    size: int
    traffic: Traffic

    def exchange(self, item: Any) -> list[Any]:
        """Every rank's item, in the order of the ranks."""
        raise NotImplementedError

    def split(self, group: int) -> Communicator:
        """The ranks that give the same number; only strategies that cut both batch and network need it."""
        raise NotImplementedError(f"transport {self.name} cannot split its ranks into groups")

    def sum(self, array: Array) -> None:
        """Replace the array by its sum over ranks."""
        begun = perf_counter()
        first, *rest = self.exchange(array.download())
        total = first.copy()
        for each in rest:
            total += each
        array.write(total)
        self.traffic.sums += 1
        self.traffic.bytes += total.nbytes
        self.traffic.exposed += perf_counter() - begun

    def start_sum(self, array: Array) -> Sum:
        """The same, complete when it comes back."""
        self.sum(array)
        return _Complete()

    def gather(self, item: Any) -> list[Any]:
        """On rank 0 every rank's item; on the others nothing."""
        items = self.exchange(item)
        return items if self.rank == 0 else []

    def broadcast(self, item: Any, root: int = 0) -> Any:
        """The item of rank `root`."""
        return self.exchange(item)[root]

    def shift(self, item: Any) -> Any:
        """The item of the rank before."""
        return self.exchange(item)[self.rank - 1]

    def check_survives(self) -> None:
        """It is."""
        raise ValueError(
            f"--elastic: transport {self.name} does not survive the loss of a rank: leave --elastic out"
        )

    def settle(self, *, deterministic: bool, elastic: bool) -> None:
        """Sums are the same in every run anyway."""

    def revoke(self) -> None:
        """Nobody goes on."""

    def agree(self, flag: bool) -> bool:
        """Whether all ranks say yes."""
        return all(self.exchange(flag))

    def recover(self) -> "Transport":
        """Nobody goes on."""
        raise NotImplementedError(f"transport {self.name} does not survive the loss of a rank")

    @property
    def current(self) -> Self:
        """Itself."""
        return self

    def confer(self, failure: str, others: int) -> tuple[bool, bool]:
        """Ranks cannot tell each other: each says what it meets."""
        return True, False

    def leave(self, status: int) -> None:
        """A regular end waits for nobody."""

    def abort(self, status: int) -> None:
        """End this process; whoever started the ranks ends the others."""
        os._exit(status)


class _Complete:
    """A sum that has been made."""

    def progress(self) -> bool:
        return True

    def wait(self) -> None:
        pass
