"""Strategies: what a rank computes of a batch, what it holds of the network, and what is summed when."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from nnkit.contracts.devices import Array
from nnkit.contracts.transport import Communicator


def part(length: int, number: int, parts: int) -> slice:
    """Part `number` of a range of that length: they differ by one at most, and may be empty."""
    return slice(length * number // parts, length * (number + 1) // parts)


Grid = tuple[int, int]
"""Ranks as a grid: parts of the batch, parts of the network."""


@dataclass(frozen=True)
class Task:
    """What is to be split over ranks."""

    sizes: tuple[int, ...]
    """The width of every layer, input first."""
    batch: int
    """Samples of a minibatch."""
    grid: Grid | None = None
    """As which grid; None leaves it to the strategy."""


class Strategy(Protocol):
    """How one network and its batches are split over the ranks of one communicator."""

    @property
    def describes(self) -> str:
        """The split in words, for the headline: "batch over 4 ranks"."""

    @property
    def first_copy(self) -> bool:
        """Whether no rank before this one holds the same part of the network."""

    @property
    def first_reader(self) -> bool:
        """Whether no rank before this one computes the same samples."""

    def rows(self, layer: int, out_features: int) -> slice:
        """The rows of weight matrix `layer` (and of its bias) that this rank holds."""

    def columns(self, layer: int, in_features: int) -> slice:
        """The columns of weight matrix `layer` that this rank holds."""

    def samples(self, batch: int) -> slice:
        """Which of a batch's samples this rank computes."""

    def sums_forward(self, layer: int) -> bool:
        """Whether X W^T of `layer` is only a part on this rank; then no epilogue is fused."""

    def after_forward(self, layer: int, z: Array) -> None:
        """Complete z = X W^T of `layer` by a sum over ranks, before bias and activation."""

    def after_backward(self, layer: int, delta: Array) -> None:
        """Complete the gradient of the input of `layer` by a sum over ranks."""

    def gradient_ready(self, layer: int, gradient: Array) -> None:
        """The gradients of `layer` exist: start summing them; called from the last layer to the first.

        `gradient` holds those of the weight (out, in), row after row, then those of the bias (out,).
        """

    def finish_gradients(self) -> None:
        """Wait until every sum of gradients that was started in this step is complete."""


class CommBackend(Protocol):
    """A way to distribute training."""

    @property
    def name(self) -> str:
        """What `--comm` calls it."""

    def strategy(self, transport: Communicator, task: Task) -> Strategy:
        """Split the task over the ranks. Raises ValueError, in one line, where it cannot."""


@dataclass(frozen=True)
class LayerWorkload:
    """What one layer asks of a rank: the part of the weight matrix that it holds, and what it sums."""

    rows: int
    columns: int
    forward: int = 1
    """Over how many ranks `after_forward` sums (samples, rows) numbers; 1 where it sums nothing."""
    backward: int = 1
    """Over how many ranks `after_backward` sums (samples, columns) numbers; for layer 0 it is not called."""
    gradient: int = 1
    """Over how many ranks the gradients of the rank's weights and biases are summed."""


@dataclass(frozen=True)
class Workload:
    """What a step asks of one rank."""

    samples: int
    """How many of the batch it computes."""
    layers: tuple[LayerWorkload, ...]
    overlap: bool = True
    """Whether gradients are summed while the layers below are computed; else behind the last of these."""


@runtime_checkable
class PredictableBackend(CommBackend, Protocol):
    """A way to distribute whose steps the cost model can predict: it has these two members besides.

    Any other trains all the same, and `nnkit scaling` measures it; only a prediction there is none.
    """

    def grids(self, ranks: int) -> Sequence[Grid]:
        """The grids that so many ranks can be; first the one that it takes where `Task.grid` is None.

        The product of each is `ranks`. Of several, nnkit chooses by the cost model and names one in
        `Task.grid`; and `nnkit plan` counts those alone that split both batch and network, as the others are
        data or model parallel under another name.
        """

    def workload(self, task: Task, rank: int) -> Workload:
        """What a step asks of that rank where the ranks are `task.grid`, one of `grids`.

        Rank 0 has the smallest parts and the last rank the largest, as `part` makes them.
        """
