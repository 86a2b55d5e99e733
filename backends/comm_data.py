"""Data parallel, `--comm data`: every rank holds the whole network and computes a part of each batch.

The gradients are divided by the size of the whole batch and summed over ranks, a layer at a time: the sum of
a layer begins as soon as its gradient exists, while the products of the layer below are computed.
"""

from nnkit.contracts import CommBackend, Communicator, Grid, Strategy, Task, Workload
from nnkit.hookspecs import hookimpl

from .grid import GridStrategy, workload


class DataParallel:
    """`--comm data`."""

    name = "data"

    def strategy(self, transport: Communicator, task: Task) -> Strategy:
        """Each rank computes its part of every batch."""
        if task.grid is not None:
            raise ValueError("--grid is for --comm hybrid: leave it out with --comm data")
        return GridStrategy(transport, task, transport.size, 1)

    def grids(self, ranks: int) -> list[Grid]:
        """One: every rank is a part of the batch."""
        return [(ranks, 1)]

    def workload(self, task: Task, rank: int) -> Workload:
        """Those of a rank of such a grid."""
        return workload(task, rank)


@hookimpl
def nnkit_comm_backends() -> list[CommBackend]:
    """Offer `data`."""
    return [DataParallel()]
