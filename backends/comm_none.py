"""The communication backend `none`: one rank holds the whole network and computes every sample."""

from nnkit.contracts import Array, CommBackend, Communicator, Grid, Strategy, Task, Workload
from nnkit.hookspecs import hookimpl

from .grid import workload

WHOLE = slice(None)


class Undivided:
    """The strategy of a single rank: everything is here, so there is nothing to sum."""

    describes = "one rank"
    first_copy = True
    first_reader = True

    def rows(self, layer: int, out_features: int) -> slice:
        """All of them."""
        return WHOLE

    def columns(self, layer: int, in_features: int) -> slice:
        """All of them."""
        return WHOLE

    def samples(self, batch: int) -> slice:
        """All of them."""
        return WHOLE

    def sums_forward(self, layer: int) -> bool:
        """Never."""
        return False

    def after_forward(self, layer: int, z: Array) -> None:
        """Complete already."""

    def after_backward(self, layer: int, delta: Array) -> None:
        """Complete already."""

    def gradient_ready(self, layer: int, gradient: Array) -> None:
        """Complete already."""

    def finish_gradients(self) -> None:
        """Nothing was started."""


class NoCommunication:
    """`--comm none`."""

    name = "none"

    def strategy(self, transport: Communicator, task: Task) -> Strategy:
        """The undivided network; more than one rank would only repeat the same work."""
        if transport.size != 1:
            raise ValueError(f"--comm none is for one rank, not {transport.size}: give --comm data or model")
        if task.grid is not None:
            raise ValueError("--grid is for --comm hybrid: leave it out with --comm none")
        return Undivided()

    def grids(self, ranks: int) -> list[Grid]:
        """One rank, or nothing."""
        return [(1, 1)] if ranks == 1 else []

    def workload(self, task: Task, rank: int) -> Workload:
        """All there is."""
        return workload(task, rank)


@hookimpl
def nnkit_comm_backends() -> list[CommBackend]:
    """Offer `none`."""
    return [NoCommunication()]
