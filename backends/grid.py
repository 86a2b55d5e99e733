"""Ranks as a grid, (parts of the batch) x (parts of the network): what data, model and hybrid parallel share.

Rank r computes part r // network of the batch with part r % network of the network.

Layers are split in pairs (Shoeybi et al., Megatron-LM, arXiv 1909.08053, figure 3). The first of a pair is
split by rows: a rank computes some of its neurons, from all inputs. The second is split by columns: it takes
only those neurons as inputs, and computes a partial sum for every output. So one sum over ranks completes
the pair. Backward, the gradient of the pair's input is summed, except for the first pair, whose input is the
images. A last layer without a partner is small (ten classes), and whole on every rank.
"""

from dataclasses import dataclass
from itertools import pairwise

from nnkit.contracts import Array, Communicator, Grid, LayerWorkload, Sum, Task, Workload, part

WHOLE = slice(None)


@dataclass(frozen=True)
class Cell:
    """A rank's place in the grid: which part of the batch and of the network is its own."""

    grid: Grid
    rank: int
    layers: int

    @property
    def batch_part(self) -> int:
        """Which part of the batch."""
        return self.rank // self.grid[1]

    @property
    def network_part(self) -> int:
        """Which part of the network."""
        return self.rank % self.grid[1]

    def rows(self, layer: int, out_features: int) -> slice:
        """A part, in the first layer of a pair."""
        return part(out_features, self.network_part, self.grid[1]) if self.opens(layer) else WHOLE

    def columns(self, layer: int, in_features: int) -> slice:
        """A part, in the second layer of a pair."""
        return part(in_features, self.network_part, self.grid[1]) if self.closes(layer) else WHOLE

    def samples(self, batch: int) -> slice:
        """A part of the batch."""
        return part(batch, self.batch_part, self.grid[0])

    def opens(self, layer: int) -> bool:
        """Whether it is the first of a pair."""
        return layer % 2 == 0 and layer + 1 < self.layers

    def closes(self, layer: int) -> bool:
        """Whether it is the second of a pair."""
        return layer % 2 == 1


def workload(task: Task, rank: int) -> Workload:
    """What a step asks of a rank of `task.grid`: the sums that GridStrategy makes, and when."""
    assert task.grid is not None
    over_batch, over_network = task.grid
    cell = Cell(task.grid, rank, len(task.sizes) - 1)
    return Workload(
        _length(task.batch, cell.samples(task.batch)),
        tuple(
            LayerWorkload(
                rows=_length(outputs, cell.rows(layer, outputs)),
                columns=_length(inputs, cell.columns(layer, inputs)),
                forward=over_network if cell.closes(layer) else 1,
                backward=over_network if cell.opens(layer) else 1,
                gradient=over_batch,
            )
            for layer, (inputs, outputs) in enumerate(pairwise(task.sizes))
        ),
    )


def _length(whole: int, taken: slice) -> int:
    return len(range(whole)[taken])


class GridStrategy:
    """The strategy of one rank of the grid."""

    def __init__(self, transport: Communicator, task: Task, over_batch: int, over_network: int):
        if over_batch < 1 or over_network < 1 or over_batch * over_network != transport.size:
            wanted = over_batch * over_network
            there, cure = (
                ("is 1", f"add --ranks {wanted}")
                if transport.size == 1
                else (f"are {transport.size}", "give two factors of that")
            )
            raise ValueError(
                f"--grid {over_batch}x{over_network} makes {wanted} ranks, but there {there}: {cure}"
            )
        self.over_batch, self.over_network = over_batch, over_network
        self.cell = Cell((over_batch, over_network), transport.rank, len(task.sizes) - 1)
        # Those that compute the same samples hold a network together; those that hold the same sum gradients.
        self.network = self.batch = transport
        if over_batch > 1 and over_network > 1:
            self.network = transport.split(self.cell.batch_part)
            self.batch = transport.split(self.cell.network_part)
        self._pending: list[Sum] = []

    @property
    def describes(self) -> str:
        """The split in words."""
        words = []
        if self.over_batch > 1:
            words.append(f"batch in {self.over_batch} parts")
        if self.over_network > 1:
            words.append(f"network in {self.over_network} parts")
        return ", ".join(words) or "one rank"

    @property
    def first_copy(self) -> bool:
        """The ranks with the first part of the batch hold the first copy of the network."""
        return self.cell.batch_part == 0

    @property
    def first_reader(self) -> bool:
        """The ranks with the first part of the network."""
        return self.cell.network_part == 0

    def rows(self, layer: int, out_features: int) -> slice:
        """A part, in the first layer of a pair."""
        return self.cell.rows(layer, out_features)

    def columns(self, layer: int, in_features: int) -> slice:
        """A part, in the second layer of a pair."""
        return self.cell.columns(layer, in_features)

    def samples(self, batch: int) -> slice:
        """This rank's part of the batch."""
        return self.cell.samples(batch)

    def sums_forward(self, layer: int) -> bool:
        """Behind every pair."""
        return self.over_network > 1 and self.cell.closes(layer)

    def after_forward(self, layer: int, z: Array) -> None:
        """Complete a pair."""
        if self.sums_forward(layer):
            self.network.sum(z)

    def after_backward(self, layer: int, delta: Array) -> None:
        """Complete the gradient of a pair's input."""
        if self.over_network > 1 and self.cell.opens(layer):
            self.network.sum(delta)
        self._progress()

    def gradient_ready(self, layer: int, gradient: Array) -> None:
        """Begin to sum it over the parts of the batch, while the layer below is computed."""
        if self.over_batch > 1:
            if layer:
                self._pending.append(self.batch.start_sum(gradient))
            else:
                # Nothing is left to compute meanwhile.
                self.batch.sum(gradient)
        self._progress()

    def finish_gradients(self) -> None:
        """Wait for the sums, in the order in which they began."""
        pending, self._pending = self._pending, []
        for each in pending:
            each.wait()

    def _progress(self) -> None:
        for each in self._pending:
            each.progress()
