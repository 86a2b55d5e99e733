"""Hybrid parallel, `--comm hybrid`: a grid of data x model parallel; `--grid 4x2` cuts the batch in four.

Each group of ranks that computes the same samples holds one network together; ranks of different groups that
hold the same part of it sum their gradients.
"""

from nnkit.contracts import CommBackend, Communicator, Grid, Strategy, Task, Workload
from nnkit.hookspecs import hookimpl

from .grid import GridStrategy, workload


class HybridParallel:
    """`--comm hybrid`."""

    name = "hybrid"

    def strategy(self, transport: Communicator, task: Task) -> Strategy:
        """A grid as asked for, or as near to a square as can be."""
        return GridStrategy(transport, task, *(task.grid or self.grids(transport.size)[0]))

    def grids(self, ranks: int) -> list[Grid]:
        """All there are, the nearest to a square first; of two alike that with more parts of the batch."""
        found = [(ranks // parts, parts) for parts in range(1, ranks + 1) if ranks % parts == 0]
        return sorted(found, key=lambda grid: (abs(grid[0] - grid[1]), grid[1]))

    def workload(self, task: Task, rank: int) -> Workload:
        """That of a rank of the grid."""
        return workload(task, rank)


@hookimpl
def nnkit_comm_backends() -> list[CommBackend]:
    """Offer `hybrid`."""
    return [HybridParallel()]
