"""Copies of a neighbour's part of the network in memory, so that training survives the loss of ranks.

This is known as diskless or buddy checkpointing (Plank, Li and Puening, Diskless Checkpointing, IEEE
Transactions on Parallel and Distributed Systems 9, 1998).
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy.typing as npt

from nnkit.contracts import Communicator
from nnkit.errors import UnrecoverableError
from nnkit.nn.initialise import Parameters
from nnkit.train.position import Position
from nnkit.train.shards import Rectangle, Shard, assemble, cover


@dataclass
class Snapshot:
    """Parts of the network as they were at one position: this rank's own, and copies of others'."""

    position: Position
    parts: list[list[Shard]]

    @property
    def key(self) -> tuple[int, int]:
        """(epoch, step): a later snapshot has a larger key."""
        return self.position.epoch, self.position.step

    @property
    def places(self) -> list[tuple[Rectangle, ...]]:
        """For each part its rectangle in the weight matrix of every layer."""
        return [tuple(each.place for each in part) for part in self.parts]


class Copies:
    """The snapshots that this rank can offer in a recovery, besides its present parameters.

    Each rank gives a copy of its part to the next rank. A rank may be lost during such an exchange; so the
    last complete snapshot is kept until all ranks have the newer one.
    """

    def __init__(self) -> None:
        self._confirmed: Snapshot | None = None
        self._pending: Snapshot | None = None

    def refresh(self, position: Position, own: list[Shard], transport: Communicator) -> None:
        """Exchange copies with the neighbours. The shards are kept, not copied: do not change them later."""
        self._pending = None
        neighbours = transport.shift(own)
        self._pending = Snapshot(deepcopy(position), [own, neighbours])

    def confirm(self) -> None:
        """All ranks have completed the exchange: drop the older snapshot."""
        if self._pending is not None:
            self._confirmed, self._pending = self._pending, None

    def keep(self, snapshot: Snapshot) -> None:
        """Keep this snapshot alone."""
        self._confirmed, self._pending = snapshot, None

    def move(self, position: Position) -> None:
        """Set the confirmed snapshot's position: the counters have changed since, the parameters have not."""
        if self._confirmed is not None:
            self._confirmed.position = deepcopy(position)

    @property
    def snapshots(self) -> list[Snapshot]:
        """The complete snapshot and the one under way, where there are such."""
        return [snapshot for snapshot in (self._confirmed, self._pending) if snapshot is not None]


def rebuild(
    sizes: Sequence[int], snapshots: Sequence[Snapshot], transport: Communicator, dtype: npt.DTypeLike
) -> tuple[Parameters, Position]:
    """The newest network that the ranks can assemble from their snapshots, and its position.

    Raises UnrecoverableError, on all ranks, if parts are missing in every snapshot.
    """
    offers: list[list[tuple[tuple[int, int], list[tuple[Rectangle, ...]]]]] = transport.exchange(
        [(snapshot.key, snapshot.places) for snapshot in snapshots]
    )
    owners: dict[tuple[int, int], dict[tuple[Rectangle, ...], int]] = {}
    for rank, held in enumerate(offers):
        for key, places in held:
            for place in places:
                owners.setdefault(key, {}).setdefault(place, rank)
    complete = [key for key, places in owners.items() if cover(sizes, places)]
    if not complete:
        left = "the rank that is left has" if transport.size == 1 else f"the {transport.size} ranks left have"
        raise UnrecoverableError(f"{left} no copy of what the lost ones held")
    key = max(complete)
    held_of = owners[key]
    whole = tuple((0, outputs, 0, inputs) for inputs, outputs in pairwise(sizes))
    if whole in held_of:
        held_of = {whole: held_of[whole]}
    mine = {
        place: (part, snapshot.position)
        for snapshot in snapshots
        if snapshot.key == key
        for place, part in zip(snapshot.places, snapshot.parts, strict=True)
    }
    parts: list[Any] = []
    position: Position | None = None
    for place, rank in held_of.items():
        part, position = transport.broadcast(mine.get(place) if rank == transport.rank else None, rank)
        parts.append(part)
    assert position is not None
    # Where ranks are threads of one process, broadcast has given all of them the same object.
    return assemble(sizes, parts, dtype), deepcopy(position)
