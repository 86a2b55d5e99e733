"""What a rank keeps of its neighbour, so that the network survives the loss of ranks."""

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
from nnkit.train.slices import Rectangle, Slice, assemble, cover


@dataclass
class Version:
    """Parts of the network as they were at some position, this rank's and copies of others'."""

    position: Position
    parts: list[list[Slice]]

    @property
    def key(self) -> tuple[int, int]:
        """Orders versions in time."""
        return self.position.epoch, self.position.step

    @property
    def places(self) -> list[tuple[Rectangle, ...]]:
        """Where the parts belong."""
        return [tuple(each.place for each in part) for part in self.parts]


class Copies:
    """The versions that this rank can bring to a recovery, besides what it is working on.

    A rank gives its part to the next one. The last version that all have exchanged stays until a newer one is
    confirmed: a rank may be lost while the newer one is on its way.
    """

    def __init__(self) -> None:
        self._confirmed: Version | None = None
        self._pending: Version | None = None

    def refresh(self, position: Position, own: list[Slice], transport: Communicator) -> None:
        """Exchange copies with the neighbours. The slices must not change later."""
        self._pending = None
        neighbours = transport.shift(own)
        self._pending = Version(deepcopy(position), [own, neighbours])

    def confirm(self) -> None:
        """All ranks have what they began to exchange: the older version is not needed any more."""
        if self._pending is not None:
            self._confirmed, self._pending = self._pending, None

    def keep(self, version: Version) -> None:
        """Forget the rest."""
        self._confirmed, self._pending = version, None

    def move(self, position: Position) -> None:
        """What is confirmed belongs to this position too: only the bookkeeping has gone on since."""
        if self._confirmed is not None:
            self._confirmed.position = deepcopy(position)

    @property
    def versions(self) -> list[Version]:
        """All that there are."""
        return [version for version in (self._confirmed, self._pending) if version is not None]


def rebuild(
    sizes: Sequence[int], versions: Sequence[Version], transport: Communicator, dtype: npt.DTypeLike
) -> tuple[Parameters, Position]:
    """The newest version of the whole network that the ranks have between them.

    Raises UnrecoverableError, on all ranks, if they have none.
    """
    said: list[list[tuple[tuple[int, int], list[tuple[Rectangle, ...]]]]] = transport.exchange(
        [(version.key, version.places) for version in versions]
    )
    owners: dict[tuple[int, int], dict[tuple[Rectangle, ...], int]] = {}
    for rank, held in enumerate(said):
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
        place: (part, version.position)
        for version in versions
        if version.key == key
        for place, part in zip(version.places, version.parts, strict=True)
    }
    parts: list[Any] = []
    position: Position | None = None
    for place, rank in held_of.items():
        part, position = transport.broadcast(mine.get(place) if rank == transport.rank else None, rank)
        parts.append(part)
    assert position is not None
    # Ranks that are threads of one process have been given the same object.
    return assemble(sizes, parts, dtype), deepcopy(position)
