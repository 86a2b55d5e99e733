"""What ranks are to measure, as they are told it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from nnkit.contracts import Grid
from nnkit.data.dataset import CLASSES

PIXELS = 784


def sizes_of(hidden: Sequence[int]) -> tuple[int, ...]:
    """The width of every layer, input first."""
    return (PIXELS, *hidden, CLASSES)


@dataclass(frozen=True)
class Case:
    """A network to train some steps of."""

    comm: str
    hidden: tuple[int, ...]
    batch: int
    grid: Grid | None = None


@dataclass(frozen=True)
class Orders:
    """What a group of ranks measures."""

    cases: tuple[Case, ...]
    """Trained by all ranks together."""
    lone: tuple[Case, ...]
    """Trained by every rank alone, all at the same time."""
    paced: tuple[Case, ...]
    """Trained alone too, but after every step the ranks meet in a sum of nothing much."""
    sum_grids: tuple[Grid, ...]
    """Sums are timed over the network groups and the batch groups of these grids."""
    sum_bytes: tuple[int, ...]
    steps: int
    backend: str
    device: str
    output: str

    def to_text(self) -> str:
        """JSON that `from_text` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> "Orders":
        """The orders in such a document."""
        found = json.loads(text)
        for name in ("cases", "lone", "paced"):
            found[name] = tuple(
                Case(
                    case["comm"],
                    tuple(case["hidden"]),
                    case["batch"],
                    tuple(case["grid"]) if case["grid"] else None,
                )
                for case in found[name]
            )
        found["sum_grids"] = tuple(
            (over_batch, over_network) for over_batch, over_network in found["sum_grids"]
        )
        found["sum_bytes"] = tuple(found["sum_bytes"])
        return cls(**found)
