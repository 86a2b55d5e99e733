"""The cost model: what a training step takes on a machine, before anybody has run it.

Compute: seconds are linear in the kinds of `Work`; the coefficients (gamma, a kind each) are fitted.

A sum of n bytes over P ranks takes the faster of two algorithms (Thakur, Rabenseifner, Gropp, Optimization of
collective communication operations in MPICH, 2005; each message costs alpha + beta n after Hockney, 1994):

    small, recursive doubling:    log2 P (alpha + beta n)
    large, in two rounds of parts: 2 log2 P alpha + 2 (P - 1) / P beta n

For numbers of ranks whose sums were measured, a line through those measurements is taken instead. Sums in
the order of the ranks (--deterministic, --elastic) are made of 2 (P - 1) messages each, and not modelled.

Overlap: sums that need not be complete at once queue up behind each other; while the rank computes they
proceed, at `overlap` times their full speed; what is left at the end of the step is exposed.

Waiting: ranks that meet wait for the slowest of them; that is fitted too, and counts as exposed.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field
from typing import Any

from nnkit.contracts import Grid
from nnkit.cost.step import ITEM, Meeting, Step, Work


@dataclass(frozen=True)
class Line:
    """alpha + beta n: seconds of latency, seconds a byte."""

    alpha: float
    beta: float

    def __call__(self, size: float) -> float:
        """Seconds for `size` bytes."""
        return self.alpha + self.beta * size


NOTHING = Line(0.0, 0.0)


@dataclass(frozen=True)
class Machine:
    """What the model knows about a machine."""

    gamma: Work
    """Seconds for one of each kind of work."""
    message: Line
    """One message between two ranks."""
    sums: Mapping[int, Line] = field(default_factory=dict)
    """Number of ranks -> measured cost of a sum over so many."""
    overlap: float = 1.0
    """The part of a sum's progress that goes on while the rank computes: 1 for a network that works alone."""
    waiting: Line = NOTHING
    """What ranks lose where they meet, besides the sum: `alpha` seconds a meeting, `beta` seconds for every
    second they have computed. Some are slower, and where ranks share cores they must be scheduled first."""
    cores: int | None = None
    """Of the one machine that all ranks share; None if every rank has what it needs."""

    def compute_seconds(self, work: Work, ranks: int = 1) -> float:
        """Seconds of computing; longer where more ranks than cores take turns."""
        alone: float = sum(
            rate * count for rate, count in zip(astuple(self.gamma), astuple(work), strict=True)
        )
        return alone * self.crowding(ranks)

    def crowding(self, ranks: int) -> float:
        """How many ranks share a core, at least 1."""
        return max(1.0, ranks / self.cores) if self.cores else 1.0

    def sum_seconds(self, size: int, ranks: int) -> float:
        """Seconds of a sum of `size` bytes over `ranks` ranks."""
        if ranks == 1:
            return 0.0
        if ranks in self.sums:
            return self.sums[ranks](size)
        rounds, alpha, beta = math.ceil(math.log2(ranks)), self.message.alpha, self.message.beta
        return min(
            rounds * (alpha + beta * size),
            2 * rounds * alpha + 2 * (ranks - 1) / ranks * beta * size,
        )

    def to_json(self) -> dict[str, Any]:
        """A document of the coefficients."""
        return {
            "gamma_seconds": asdict(self.gamma),
            "alpha_seconds": self.message.alpha,
            "beta_seconds_per_byte": self.message.beta,
            "sums": {
                str(ranks): {"alpha_seconds": line.alpha, "beta_seconds_per_byte": line.beta}
                for ranks, line in sorted(self.sums.items())
            },
            "overlap": self.overlap,
            "waiting_seconds_per_meeting": self.waiting.alpha,
            "waiting_per_second_of_compute": self.waiting.beta,
            "cores": self.cores,
        }


@dataclass(frozen=True)
class Prediction:
    """One step of one strategy, as the model sees it."""

    grid: Grid
    """Parts of the batch, parts of the network."""
    compute_seconds: float
    exposed_seconds: float
    """Waiting for sums."""
    hidden_seconds: float
    """Sums under way while the rank computed."""
    bytes: int
    """What the rank with the largest parts sums in a step."""
    parameter_bytes: int
    """The parameters that it holds; the gradients are as many again."""

    @property
    def seconds(self) -> float:
        """The whole step."""
        return self.compute_seconds + self.exposed_seconds

    def to_json(self) -> dict[str, Any]:
        """A document."""
        return {"seconds": self.seconds, **asdict(self), "grid": list(self.grid)}


def predict(step: Step, grid: Grid, machine: Machine) -> Prediction:
    """What a step takes that is this one on the rank with the most to do, and no more on the others."""
    ranks = math.prod(grid)
    exposed = hidden = backlog = 0.0
    *before, update = step.events
    for event in before:
        if isinstance(event, Meeting):
            seconds = machine.sum_seconds(event.bytes, event.ranks)
            if event.blocks:
                exposed += seconds
            else:
                backlog += seconds
        else:
            done = min(backlog, machine.overlap * machine.compute_seconds(event, ranks))
            hidden, backlog = hidden + done, backlog - done
    assert isinstance(update, Work)
    exposed += backlog
    compute = machine.compute_seconds(step.work, ranks)
    if step.meetings:
        # Ranks reach a sum at different times, and the first ones wait for the last one. That costs more the
        # more ranks take part in the sum. Only blocking sums count: the others overlap with computing, and
        # are complete soon after the last blocking sum of the step.
        points = [meeting.ranks for meeting in step.meetings if meeting.blocks]
        exposed += machine.waiting.alpha * sum(points) / ranks + machine.waiting.beta * compute
    return Prediction(grid, compute, exposed, hidden, step.bytes, step.parameters * ITEM)
