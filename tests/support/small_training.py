"""A small training run on several ranks (threads), with fault injection."""

from collections.abc import Callable
from typing import Any

import numpy as np

from nnkit.comm.threads import ThreadsTransport
from nnkit.contracts import Sum, Task, Transport
from nnkit.data import Dataset, Samples
from nnkit.device import open_device
from nnkit.nn.initialise import Parameters
from nnkit.plugins import Registry
from nnkit.train.config import TrainConfig
from nnkit.train.position import Position
from nnkit.train.ranks import Ranks
from nnkit.train.trainer import Intervals, Trainer

REGISTRY = Registry.discover()
PIXELS = 25


def draw_samples(count: int, seed: int) -> Samples:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, PIXELS), np.uint8)
    return Samples(images, generator.integers(0, 10, count).astype(np.intp), (5, 5))


DATASET = Dataset(draw_samples(230, 1), draw_samples(90, 2), "in memory")


def make(
    transport: Transport,
    comm: str,
    config: TrainConfig,
    *,
    grid: tuple[int, int] | None = None,
    elastic: bool = False,
    resumed: tuple[Parameters, Position] | None = None,
    intervals: Intervals = Intervals(),  # noqa: B008  it is frozen
    device: str = "cpu",
    backend: str = "numpy",
) -> Trainer:
    """One rank's trainer."""
    task = Task(config.sizes(PIXELS, 10), config.batch, grid)
    ranks = Ranks(transport, REGISTRY.comm(comm), task, elastic)
    return Trainer(config, DATASET, open_device(device), REGISTRY.gemm(backend), ranks, resumed, intervals)


def alone(config: TrainConfig, resumed: tuple[Parameters, Position] | None = None) -> Trainer:
    """The trainer of a single rank."""
    ranks = Ranks.alone(config.sizes(PIXELS, 10), config.batch)
    return Trainer(config, DATASET, open_device("cpu"), REGISTRY.gemm("numpy"), ranks, resumed)


def bits(parameters: Parameters) -> list[bytes]:
    return [part.tobytes() for pair in parameters for part in pair]


class Killed(BaseException):
    """Ends a rank's thread as SIGKILL ends a process: no code catches it."""


class Disturbed:
    """A transport that calls `before(name)` before each call of its own, and of its sums."""

    def __init__(self, inner: Any, before: Callable[[str], None]):
        """`inner` is a transport, or a communicator that was split off one."""
        self._inner, self._before = inner, before
        self.name, self.rank, self.size, self.traffic = inner.name, inner.rank, inner.size, inner.traffic

    def start_sum(self, array: Any) -> Sum:
        self._before("start_sum")
        return DisturbedSum(self._inner.start_sum(array), self._before)

    def sum(self, array: Any) -> None:
        self.start_sum(array).wait()

    def split(self, group: int) -> "Disturbed":
        self._before("split")
        return Disturbed(self._inner.split(group), self._before)

    def recover(self) -> "Disturbed":
        self._before("recover")
        return Disturbed(self._inner.recover(), self._before)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        def call(*given: Any, **named: Any) -> Any:
            self._before(name)
            return method(*given, **named)

        return call


class DisturbedSum:
    """A sum of such a transport."""

    def __init__(self, inner: Sum, before: Callable[[str], None]):
        self._inner, self._before = inner, before

    def progress(self) -> bool:
        self._before("progress")
        return self._inner.progress()

    def wait(self) -> None:
        self._before("wait")
        self._inner.wait()


def killing(at: dict[int, int], names: tuple[str, ...] = ()) -> Callable[[ThreadsTransport], Disturbed]:
    """Transports that kill ranks: `at[rank]` is the number of the call (of those `names`) that kills it."""

    def wrap(transport: ThreadsTransport) -> Disturbed:
        left = at.get(transport.rank, -1)

        def before(name: str) -> None:
            nonlocal left
            if not names or name in names:
                if left == 0:
                    raise Killed
                left -= 1

        return Disturbed(transport, before)

    return wrap
