"""A strategy on some ranks, and what can be said of its steps before they are run."""

from collections.abc import Sequence
from dataclasses import dataclass

from nnkit.contracts import CommBackend, Grid, Task
from nnkit.cost.grids import predictable, step_in
from nnkit.cost.step import Step
from nnkit.scaling.orders import sizes_of


@dataclass(frozen=True)
class Contender:
    """One of the strategies that are compared, in the grid that it takes by itself."""

    backend: CommBackend
    ranks: int

    @property
    def name(self) -> str:
        """What `--comm` calls it."""
        return self.backend.name

    @property
    def grids(self) -> Sequence[Grid]:
        """What so many ranks can be, its own choice first; none where that is not known."""
        known = predictable(self.backend)
        return known.grids(self.ranks) if known else ()

    @property
    def grid(self) -> Grid | None:
        """What it takes by itself; None where that is not known."""
        return next(iter(self.grids), None)

    @property
    def named_grid(self) -> Grid | None:
        """The same where it has a choice, and so has to be told: else nnkit would choose by its model."""
        return self.grid if len(self.grids) > 1 else None

    def step(self, hidden: Sequence[int], batch: int, rank: int | None = None) -> Step | None:
        """What a step asks of that rank, or of the last one; None where that is not known.

        Of a network with hidden layers of these widths.
        """
        known, grid = predictable(self.backend), self.grid
        if known is None or grid is None:
            return None
        return step_in(known, Task(sizes_of(hidden), batch), grid, rank)
