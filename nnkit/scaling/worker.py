"""What one rank of `nnkit scaling` does: times steps and sums as ordered, and rank 0 writes them down.

Run as a program by every rank, or by one process alone: `python -m nnkit.scaling.worker ORDERS`, where
ORDERS is the JSON document of an `Orders`.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnkit.comm.ending import say, together
from nnkit.comm.joining import open_transport, prepare, usual_transport
from nnkit.comm.single import SingleTransport
from nnkit.comm.world import local_rank
from nnkit.contracts import Communicator, Task, Transport
from nnkit.data import Dataset, Samples
from nnkit.data.dataset import CLASSES
from nnkit.device import open_device_for
from nnkit.errors import Ended, NnkitError
from nnkit.plugins import Registry, check_serves
from nnkit.scaling.orders import PIXELS, Case, Orders
from nnkit.train.config import TrainConfig
from nnkit.train.ranks import Ranks
from nnkit.train.trainer import Trainer

WARM_UP = 3
"""Steps and sums that are not counted."""
OVERLAP_BYTES = 1_000_000
"""Of the sum with which it is found out what goes on while a rank computes."""
SUM_SECONDS = 0.1
"""What the sums of one size may take."""


Series = npt.NDArray[np.float64]
"""(steps, 3): seconds of a step, of these waiting for sums, and of sums under way meanwhile."""


class Worker:
    """One rank at work."""

    def __init__(self, transport: Transport, orders: Orders):
        self.transport = transport
        self.orders = orders
        self.registry = Registry.discover()
        self.gemm = self.registry.gemm(orders.backend)
        self.device, _ = open_device_for(self.gemm.devices, orders.device, local_rank())
        check_serves(self.gemm, self.device.name, "float32")
        largest = max((case.batch for case in (*orders.cases, *orders.lone, *orders.paced)), default=1)
        self.dataset = _noise(max(8000, 4 * largest))

    def measure(self) -> dict[str, Any]:
        """Everything; complete on rank 0."""
        return {
            "device": self.device.name,
            "lone": [self._lone(case, meet=False) for case in self.orders.lone],
            "paced": [self._lone(case, meet=True) for case in self.orders.paced],
            "sums": self._sums(),
            "overlap": self._overlap(),
            "cases": [self._case(case) for case in self.orders.cases],
        }

    # -- steps ----------------------------------------------------------------------------------------------

    def _case(self, case: Case) -> dict[str, Any]:
        """Steps of all ranks together."""
        trainer = self._trainer(case, self.transport)
        every = self.transport.exchange(self._time(trainer, case))
        cost = self.transport.exchange((trainer.cost.bytes // trainer.cost.steps, trainer.cost.sums))
        seconds, exposed, hidden = middle_half(np.mean(every, axis=0))
        return {
            "seconds": seconds,
            "exposed_seconds": exposed,
            "hidden_seconds": hidden,
            "bytes": [count for count, _ in cost],
            "sums": cost[0][1] // trainer.cost.steps,
        }

    def _lone(self, case: Case, meet: bool) -> float:
        """Seconds of a step of every rank alone; with `meet`, of such a step and the meeting behind it."""
        array = self.device.zeros((1,), np.float32)
        behind = (lambda: self.transport.sum(array)) if meet else None
        own = self._time(self._trainer(case, SingleTransport()), case, behind)
        return middle_half(np.mean(self.transport.exchange(own), axis=0))[0]

    def _trainer(self, case: Case, transport: Transport) -> Trainer:
        config = TrainConfig(hidden=case.hidden, batch=case.batch, lr=0.01, validation_fraction=0.0)
        comm = self.registry.comm(case.comm if transport.size > 1 else "none")
        task = Task(config.sizes(PIXELS, CLASSES), case.batch, case.grid if transport.size > 1 else None)
        return Trainer(config, self.dataset, self.device, self.gemm, Ranks(transport, comm, task))

    def _time(self, trainer: Trainer, case: Case, behind: Callable[[], None] | None = None) -> Series:
        """One row a step, after some to warm up; all ranks see the same batches. `behind` follows each."""
        order = np.random.default_rng(0).permutation(len(self.dataset.train))
        rows = []
        for number in range(WARM_UP + self.orders.steps):
            start = number * case.batch % (len(order) - case.batch + 1)
            cost = trainer.cost
            before = cost.exposed_seconds, cost.hidden_seconds
            begun = time.perf_counter()
            trainer.step(order[start : start + case.batch])
            if behind is not None:
                behind()
            seconds = time.perf_counter() - begun
            rows.append((seconds, cost.exposed_seconds - before[0], cost.hidden_seconds - before[1]))
        return np.array(rows[WARM_UP:])

    # -- sums -----------------------------------------------------------------------------------------------

    def _sums(self) -> dict[str, list[tuple[int, float]]]:
        """Ranks of a group -> (bytes, seconds) of sums over such groups, all of them at the same time."""
        found: dict[str, list[tuple[int, float]]] = {}
        for over_batch, over_network in self.orders.sum_grids:
            batch_part, network_part = divmod(self.transport.rank, over_network)
            for group, ranks in ((batch_part, over_network), (network_part, over_batch)):
                if ranks > 1 and str(ranks) not in found:
                    members = self.transport.split(group)
                    found[str(ranks)] = [(size, self._sum(members, size)) for size in self.orders.sum_bytes]
        return found

    def _sum(self, members: Communicator, size: int) -> float:
        """Seconds of a sum of that many bytes, written just before, as a gradient is."""
        array = self.device.zeros((size // 4,), np.float32)
        fresh = np.zeros(size // 4, np.float32)

        def once() -> float:
            array.write(fresh)
            begun = time.perf_counter()
            members.sum(array)
            return time.perf_counter() - begun

        before = self._median([once() for _ in range(WARM_UP)])
        return self._median([once() for _ in range(int(np.clip(SUM_SECONDS / before, 5, 200)))])

    def _median(self, seconds: Sequence[float]) -> float:
        """The median, as all ranks together see it."""
        return float(np.mean(self.transport.exchange(float(np.median(seconds)))))

    def _overlap(self) -> float:
        """Which part of a sum is done while this rank computes: 0 if it has to be waited for in full.

        A sum beside a step against the same sum behind it, in turns; the step is longer than the sum, but not
        much, so that its own ups and downs do not drown the difference.
        """
        lone = self.orders.lone or self.orders.paced
        if self.transport.size == 1 or not lone:
            return 0.0
        array = self.device.zeros((OVERLAP_BYTES // 4,), np.float32)
        alone = self._sum(self.transport, OVERLAP_BYTES)
        trainers = [(case, self._trainer(case, SingleTransport())) for case in lone]
        trainers.sort(key=lambda pair: pair[0].batch * sum(pair[0].hidden))
        for case, trainer in trainers:
            index = np.arange(case.batch)
            trainer.step(index)
            if self._median([self._once(partial(trainer.step, index)) for _ in range(5)]) > alone:
                break

        def beside() -> None:
            begun = self.transport.start_sum(array)
            trainer.step(index)
            begun.wait()

        def behind() -> None:
            trainer.step(index)
            self.transport.sum(array)

        saved = [self._once(behind) - self._once(beside) for _ in range(self.orders.steps)]
        return float(np.clip(self._median(saved) / alone, 0.0, 1.0))

    def _once(self, call: Callable[[], object]) -> float:
        """Seconds of a call that all ranks begin together."""
        self.transport.exchange(None)
        begun = time.perf_counter()
        call()
        return time.perf_counter() - begun


def middle_half(series: Series) -> list[float]:
    """The mean of the rows between the quartiles of the first column: the columns still add up."""
    order = np.argsort(series[:, 0], kind="stable")
    quarter = len(order) // 4
    return [float(value) for value in series[order[quarter : len(order) - quarter]].mean(axis=0)]


def _noise(count: int) -> Dataset:
    """Samples of MNIST's shape: what they show makes no difference to the time."""
    generator = np.random.default_rng(0)

    def draw(number: int) -> Samples:
        images = generator.integers(0, 256, (number, PIXELS), np.uint8)
        return Samples(images, generator.integers(0, CLASSES, number).astype(np.intp), (28, 28))

    return Dataset(draw(count), draw(CLASSES), "noise")


def main(arguments: Sequence[str]) -> int:
    """One rank's whole life; returns the exit status."""
    orders = Orders.from_text(arguments[0])
    transport = open_transport(Registry.discover().transport(usual_transport()))
    worker = prepare(transport, {}, lambda: Worker(transport, orders))

    def work() -> int:
        found = worker.measure()
        if transport.rank == 0:
            Path(orders.output).write_text(json.dumps(found), encoding="utf-8")
        return 0

    return together(transport, False, work)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except NnkitError as error:
        say(f"nnkit: {error}")
        sys.exit(error.exit_status)
    except Ended as stop:
        sys.exit(stop.exit_status)
