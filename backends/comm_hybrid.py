"""Hybrid parallel, `--comm hybrid`: a grid of data x model parallel; `--grid 4x2` cuts the batch in four.

Each group of ranks that computes the same samples holds one network together; ranks of different groups that
hold the same part of it sum their gradients.
"""

import math

from nnkit.contracts import CommBackend, Strategy, Task, Transport
from nnkit.hookspecs import hookimpl

from .grid import GridStrategy


class HybridParallel:
    """`--comm hybrid`."""

    name = "hybrid"
    uses_grid = True

    def strategy(self, transport: Transport, task: Task) -> Strategy:
        """A grid as asked for, or as near to a square as can be, the batch in the more parts.

        `uses_grid` says that nnkit may choose one by its cost model.
        """
        shape = task.grid or _squarest(transport.size)
        return GridStrategy(transport, task, *shape)


def _squarest(ranks: int) -> tuple[int, int]:
    smaller = next(n for n in range(math.isqrt(ranks), 0, -1) if ranks % n == 0)
    return ranks // smaller, smaller


@hookimpl
def nnkit_comm_backends() -> list[CommBackend]:
    """Offer `hybrid`."""
    return [HybridParallel()]
