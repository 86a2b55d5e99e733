"""What one training step consists of on one rank of a grid: shapes, flops, bytes; no seconds yet.

The same cut as data, model and hybrid parallel make: `grid` is (parts of the batch, parts of the network),
layers pair up, the first of a pair is split by rows, the second by columns.
`tests/comm/test_cost.py` holds the bytes against those that training really sums.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

from nnkit.contracts import part

ITEM = 4
"""Bytes of a float32."""

Grid = tuple[int, int]


@dataclass(frozen=True)
class Work:
    """What is computed between two meetings, by kinds that cost differently."""

    calls: float = 0.0
    """Layers passed, forward or backward: what does not depend on the size."""
    flops: float = 0.0
    """Of matrix products: 2 m n k each."""
    traffic: float = 0.0
    """Elements of the matrices that go in and come out: a thin product costs these rather than its flops."""
    elements: float = 0.0
    """Of activations and their derivatives."""
    parameters: float = 0.0
    """That are updated."""
    pixels: float = 0.0
    """That are gathered."""

    def __add__(self, other: "Work") -> "Work":
        return Work(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


KINDS = tuple(field.name for field in fields(Work))


@dataclass(frozen=True)
class Meeting:
    """A sum over `ranks` ranks of `bytes` bytes each."""

    ranks: int
    bytes: int
    blocks: bool
    """Whether the rank does nothing before it is complete; else only the end of the step waits for it."""


Event = Work | Meeting


@dataclass(frozen=True)
class Step:
    """A step on one rank, in the order in which things happen."""

    events: tuple[Event, ...]
    parameters: int
    """How many numbers this rank holds."""

    @property
    def work(self) -> Work:
        """All that is computed."""
        return sum((event for event in self.events if isinstance(event, Work)), Work())

    @property
    def meetings(self) -> tuple[Meeting, ...]:
        """All sums."""
        return tuple(event for event in self.events if isinstance(event, Meeting))

    @property
    def bytes(self) -> int:
        """The size of what this rank sums, as `Traffic.bytes` counts it."""
        return sum(meeting.bytes for meeting in self.meetings)


def step_of(sizes: Sequence[int], batch: int, grid: Grid = (1, 1), rank: int | None = None) -> Step:
    """The step of a network with these widths, input first, on rank `rank` of the grid.

    Without `rank` it is the last one's: it has the largest parts, and sets the pace.
    """
    over_batch, over_network = grid
    reader, holder = divmod(over_batch * over_network - 1 if rank is None else rank, over_network)
    samples = _size(batch, reader, over_batch)
    shapes = [_shape(sizes, layer, holder, over_network) for layer in range(len(sizes) - 1)]
    held = sum(rows * columns + rows for rows, columns in shapes)
    events: list[Event] = [Work(calls=1, pixels=samples * sizes[0])]
    for layer, (rows, columns) in enumerate(shapes):
        product = _product(samples, columns, rows)
        if over_network > 1 and layer % 2 == 1:
            events += [product, Meeting(over_network, samples * rows * ITEM, blocks=True)]
            product = Work()
        events.append(product + Work(calls=1, elements=samples * rows))
    for layer in reversed(range(len(shapes))):
        rows, columns = shapes[layer]
        events.append(_product(samples, columns, rows) + Work(calls=1))
        if over_batch > 1:
            # Behind the first layer's nothing is left to compute.
            events.append(Meeting(over_batch, (rows * columns + rows) * ITEM, blocks=layer == 0))
        if layer:
            events.append(_product(samples, columns, rows))
            if over_network > 1 and _opens(layer, len(shapes)):
                events.append(Meeting(over_network, samples * columns * ITEM, blocks=True))
            events.append(Work(elements=samples * columns))
    # The update waits for all sums: it stands behind the end of the last meeting.
    events.append(Work(calls=1, parameters=held))
    return Step(tuple(events), held)


def _size(length: int, number: int, parts: int) -> int:
    """How much of a range is part `number`; the last one is a largest one."""
    return len(range(length)[part(length, number, parts)])


def _shape(sizes: Sequence[int], layer: int, holder: int, over_network: int) -> tuple[int, int]:
    """Rows (outputs) and columns (inputs) of this rank's part of a weight matrix."""
    columns, rows = sizes[layer], sizes[layer + 1]
    if _opens(layer, len(sizes) - 1):
        rows = _size(rows, holder, over_network)
    elif layer % 2 == 1:
        columns = _size(columns, holder, over_network)
    return rows, columns


def _opens(layer: int, layers: int) -> bool:
    """Whether a layer is the first of a pair."""
    return layer % 2 == 0 and layer + 1 < layers


def _product(samples: int, columns: int, rows: int) -> Work:
    """One of the three products of a layer: they have the same three matrices' shapes."""
    touched = samples * columns + columns * rows + samples * rows
    return Work(flops=2.0 * samples * columns * rows, traffic=touched)
