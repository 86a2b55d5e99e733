"""The transport `single`: one process, one rank, nothing to move."""

import sys
from typing import Any

from nnkit.contracts import Array, Traffic, Transport


class Complete:
    """A sum over one rank."""

    def progress(self) -> bool:
        """It is complete."""
        return True

    def wait(self) -> None:
        """It is complete."""


class SingleTransport:
    """Rank 0 of 1."""

    name = "single"
    rank = 0
    size = 1

    def __init__(self) -> None:
        self.traffic = Traffic()

    def start_sum(self, array: Array) -> Complete:
        """The sum over one rank is what it has."""
        return Complete()

    def sum(self, array: Array) -> None:
        """The sum over one rank is what it has."""

    def exchange(self, item: Any) -> list[Any]:
        """Its own."""
        return [item]

    def gather(self, item: Any) -> list[Any]:
        """Its own."""
        return [item]

    def broadcast(self, item: Any, root: int = 0) -> Any:
        """Its own."""
        return item

    def shift(self, item: Any) -> Any:
        """The next rank is this one."""
        return item

    def split(self, group: int) -> Transport:
        """Any group has this rank alone."""
        return self

    def check_survives(self) -> None:
        """Nobody can be lost."""

    def settle(self, *, deterministic: bool, elastic: bool) -> None:
        """Nothing to agree on."""

    def revoke(self) -> None:
        """Nobody waits."""

    def agree(self, flag: bool) -> bool:
        """It agrees with itself."""
        return flag

    def recover(self) -> Transport:
        """Nobody can be lost."""
        return self

    @property
    def current(self) -> Transport:
        """Itself."""
        return self

    def confer(self, failure: str, others: int) -> tuple[bool, bool]:
        """It speaks for all."""
        return True, True

    def leave(self, status: int) -> None:
        """Nobody was lost."""

    def abort(self, status: int) -> None:
        """End this process."""
        sys.exit(status)
