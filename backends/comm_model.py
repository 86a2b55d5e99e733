"""Model parallel, `--comm model`: every rank computes the whole batch with a part of the hidden neurons.

One sum of (batch x classes) numbers a step completes the logits of a network with one hidden layer, and the
way back needs none.
"""

from nnkit.contracts import CommBackend, Strategy, Task, Transport
from nnkit.hookspecs import hookimpl

from .grid import GridStrategy


class ModelParallel:
    """`--comm model`."""

    name = "model"

    def strategy(self, transport: Transport, task: Task) -> Strategy:
        """Each rank holds its part of every pair of layers."""
        if task.grid is not None:
            raise ValueError("--grid is for --comm hybrid: leave it out with --comm model")
        return GridStrategy(transport, task, 1, transport.size)


@hookimpl
def nnkit_comm_backends() -> list[CommBackend]:
    """Offer `model`."""
    return [ModelParallel()]
