"""What one training step consists of on one rank: work and sums in their order; no seconds yet.

What a strategy asks of a rank its backend says (`Workload`). `tests/cost/test_cost.py` holds the bytes of
those that ship against those that training really sums.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from itertools import pairwise

from nnkit.contracts import LayerWorkload, Workload

ITEM = 4
"""Bytes of a float32."""


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


def step_of(pixels: int, workload: Workload) -> Step:
    """The step of a rank with that workload; `pixels` are the features of a sample."""
    samples, layers = workload.samples, workload.layers
    held = sum(layer.rows * layer.columns + layer.rows for layer in layers)
    events: list[Event] = [Work(calls=1, pixels=samples * pixels)]
    for layer in layers:
        product = _product(samples, layer)
        if layer.forward > 1:
            events += [product, Meeting(layer.forward, samples * layer.rows * ITEM, blocks=True)]
            product = Work()
        events.append(product + Work(calls=1, elements=samples * layer.rows))
    last: list[Event] = []
    for number, layer in reversed([*enumerate(layers)]):
        events.append(_product(samples, layer) + Work(calls=1))
        if layer.gradient > 1:
            # Behind the first layer's nothing is left to compute.
            blocks = number == 0 or not workload.overlap
            gradients = (layer.rows * layer.columns + layer.rows) * ITEM
            (events if workload.overlap else last).append(Meeting(layer.gradient, gradients, blocks))
        if number:
            events.append(_product(samples, layer))
            if layer.backward > 1:
                events.append(Meeting(layer.backward, samples * layer.columns * ITEM, blocks=True))
            events.append(Work(elements=samples * layer.columns))
    # The update waits for all sums: it stands behind the end of the last meeting.
    return Step((*events, *last, Work(calls=1, parameters=held)), held)


def alone(sizes: Sequence[int], batch: int) -> Step:
    """The step of one rank without others: layers of these widths, input first."""
    layers = tuple(LayerWorkload(outputs, inputs) for inputs, outputs in pairwise(sizes))
    return step_of(sizes[0], Workload(batch, layers))


def _product(samples: int, layer: LayerWorkload) -> Work:
    """One of the three products of a layer: they have the same three matrices' shapes."""
    touched = samples * layer.columns + layer.columns * layer.rows + samples * layer.rows
    return Work(flops=2.0 * samples * layer.columns * layer.rows, traffic=touched)
