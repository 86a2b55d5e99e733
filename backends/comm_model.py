"""Model parallel, `--comm model`: every rank computes the whole batch with a part of the hidden neurons.

One sum of (batch x classes) numbers a step completes the logits of a network with one hidden layer, and the
way back needs none.
"""

from nnkit.contracts import CommBackend, Communicator, Grid, Strategy, Task, Workload
from nnkit.hookspecs import hookimpl

from .grid import GridStrategy, workload


class ModelParallel:
    """`--comm model`."""

    name = "model"

    def strategy(self, transport: Communicator, task: Task) -> Strategy:
        """Each rank holds its part of every pair of layers."""
        if task.grid is not None:
            raise ValueError("--grid is for --comm hybrid: leave it out with --comm model")
        return GridStrategy(transport, task, 1, transport.size)

    def grids(self, ranks: int) -> list[Grid]:
        """One: every rank is a part of the network."""
        return [(1, ranks)]

    def workload(self, task: Task, rank: int) -> Workload:
        """Those of a rank of such a grid."""
        return workload(task, rank)


@hookimpl
def nnkit_comm_backends() -> list[CommBackend]:
    """Offer `model`."""
    return [ModelParallel()]
