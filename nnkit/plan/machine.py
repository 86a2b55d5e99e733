"""The machine of a plan: as it is described, and measured here where it is not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from nnkit.contracts import PredictableBackend, Task
from nnkit.cost.grids import fitting
from nnkit.cost.model import Line, Machine
from nnkit.cost.step import Work
from nnkit.plugins import Registry
from nnkit.scaling import measure
from nnkit.scaling.measure import SUM_BYTES, cores, lone_cases
from nnkit.scaling.orders import Orders, sizes_of

MOST_MEASURED = 8
"""How many ranks are started here; the formulas go on from there."""


@dataclass(frozen=True)
class Described:
    """What is known of a machine that need not be here; None is measured."""

    bandwidth: float | None = None
    """Bytes a second of one rank's link."""
    latency: float | None = None
    """Seconds of one message."""
    flops: float | None = None
    """What a rank's matrix products reach, operations a second."""

    def sources(self) -> dict[str, str]:
        """Where each coefficient of the cost model comes from, in words."""
        given = {
            name: "measured here" if value is None else "given"
            for name, value in (("bandwidth", self.bandwidth), ("latency", self.latency))
        }
        whole = self.bandwidth is not None and self.latency is not None
        alone = "given; all that is not a matrix product is left out"
        return {
            **given,
            "compute": "measured here" if self.flops is None else alone,
            "overlap": "a network that works while ranks compute" if whole else "measured here",
        }


def machine_of(
    described: Described,
    task: Task,
    ranks: int,
    backends: Sequence[PredictableBackend],
    backend: str,
    device: str,
    tell: Callable[[str], object],
) -> Machine:
    """The machine described; what was not said of it is measured here, and `tell` is told before.

    Sums are timed in the grids of `backends`, the strategies to choose from. With nothing said of the network
    all ranks are on this machine, and may have to share its cores.
    """

    def measured(number: int) -> Machine:
        return _measured(task, number, backends, backend, device, tell)

    bandwidth, latency, rate = described.bandwidth, described.latency, described.flops
    if ranks == 1 or (bandwidth is None and latency is None):
        machine = measured(ranks)
    elif bandwidth is not None and latency is not None:
        message = Line(latency, 1 / bandwidth)
        if rate is not None:
            return Machine(Work(flops=1 / rate), message)
        gamma = measured(1).gamma
        return Machine(gamma, message)
    else:
        # Of the network one thing is known; the other is that between two ranks here.
        two = measured(2)
        message = Line(
            two.message.alpha if latency is None else latency,
            two.message.beta if bandwidth is None else 1 / bandwidth,
        )
        machine = replace(two, message=message, sums={}, cores=None)
    return machine if rate is None else replace(machine, gamma=Work(flops=1 / rate))


def _measured(
    task: Task,
    ranks: int,
    backends: Sequence[PredictableBackend],
    backend: str,
    device: str,
    tell: Callable[[str], object],
) -> Machine:
    """This machine, with so many ranks or as many as are soon measured."""
    Registry.discover().gemm(backend)
    shared = cores()
    # Wide networks take long, and a step is linear in what is large: a narrower one tells as much.
    narrow = [tuple(min(width, limit) for width in task.sizes[1:-1]) for limit in (64, 512, 1024)]
    samples = min(task.batch, 800)
    machines: dict[int, Machine] = {}
    # Computing is measured while nobody takes turns, meetings with all ranks.
    for number in sorted({min(ranks, shared, MOST_MEASURED), min(ranks, MOST_MEASURED)}):
        part = Task(sizes_of(narrow[-1]), samples)
        cuts = list(dict.fromkeys(grid for each in backends for grid in fitting(each, part, number))) or [
            (1, 1)
        ]
        orders = Orders(
            cases=(),
            lone=lone_cases(narrow, samples, [(1, 1), *cuts], 10) if number <= shared else (),
            paced=lone_cases(narrow, samples, cuts, 5) if number > 1 else (),
            sum_grids=((number, 1), *(cut for cut in cuts if min(cut) > 1)),
            sum_bytes=SUM_BYTES,
            steps=10,
            backend=backend,
            device=device,
            output="",
        )
        tell(f"measuring this machine with {number} rank{'s' if number > 1 else ''}")
        found = measure.measure(number, orders)
        machines[number] = measure.machine_of(found, orders, shared, machines)
    return machines[max(machines)]
