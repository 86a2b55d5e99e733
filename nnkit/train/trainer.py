"""The training loop of one rank: epochs of steps over shuffled samples, and the evaluation between them."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from nnkit.contracts import Device, GemmBackend, Strategy
from nnkit.data import Dataset, split_validation
from nnkit.data.dataset import CLASSES
from nnkit.errors import DivergedError, UsageError
from nnkit.nn.initialise import Parameters, initial_parameters
from nnkit.nn.network import Network
from nnkit.train.config import TrainConfig
from nnkit.train.evaluation import EVALUATION_BATCH, Data, Evaluator

SHUFFLE_STREAM = 0xB47C4
"""Keeps the generator of the shuffles apart from those of the parameters."""


@dataclass
class Position:
    """Where a run stands: with the parameters, all that is needed to go on bit for bit."""

    epoch: int = 0
    """Epochs that are complete."""
    step: int = 0
    """Steps of the current epoch that are complete."""
    loss_sum: float = 0.0
    """The sum of the losses of those steps' samples."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """The record of every complete epoch, as in the metrics file."""

    def to_json(self) -> dict[str, Any]:
        """A document of the fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Position":
        """The position in such a document; raises TypeError or ValueError if it is none."""
        position = cls(**document)
        kinds = {"epoch": int, "step": int, "loss_sum": float, "history": list}
        for name, kind in kinds.items():
            if type(getattr(position, name)) is not kind:
                raise TypeError(f"position: {name} is {getattr(position, name)!r}")
        if position.epoch < 0 or position.step < 0 or len(position.history) != position.epoch:
            raise ValueError(f"position: epoch {position.epoch}, step {position.step}")
        return position


class Interrupted(Exception):
    """The run was asked to stop, and did so after a step."""


class Trainer:
    """Trains one network; made at its initial state, or at that of a checkpoint."""

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        device: Device,
        gemm: GemmBackend,
        strategy: Strategy,
        resumed: tuple[Parameters, Position] | None = None,
    ):
        self.config = config
        self.training, self.validation = split_validation(
            dataset.train, config.validation_fraction, config.seed
        )
        if config.batch > len(self.training):
            left = len(self.training)
            raise UsageError(
                f"--batch {config.batch} is more than the {left} training samples: give {left} or less"
            )
        if resumed is None:
            sizes = config.sizes(dataset.pixels, CLASSES)
            resumed = initial_parameters(sizes, config.activation, config.seed), Position()
        parameters, self.position = resumed
        self.strategy = strategy
        self.operations = device.operations
        self.train_data = Data(dataset.train, device)
        self.test_data = Data(dataset.test, device)
        max_batch = max(config.batch, EVALUATION_BATCH)
        self.network = Network(parameters, config.activation, device, gemm, strategy, max_batch)
        self.evaluator = Evaluator(self.network)

    @property
    def steps(self) -> int:
        """The steps of an epoch, the last, shorter one included."""
        return math.ceil(len(self.training) / self.config.batch)

    def step(self, index: npt.NDArray[np.intp]) -> float:
        """One minibatch: gather, forward, backward, update. Returns the sum of this rank's losses.

        Raises DivergedError, before the update, if the loss is infinite or not a number.
        """
        mine = index[self.strategy.samples(len(index))]
        flow = self.network.buffers(len(mine))
        self.operations.gather_images(self.train_data.images, mine, flow.images)
        self.operations.gather_labels(self.train_data.labels, mine, flow.labels)
        self.network.forward(flow)
        self.network.backward(flow, divisor=len(index))
        loss = self.operations.total(flow.losses)
        if not math.isfinite(loss):
            raise self._diverged(f"the loss became {loss}", self.position.epoch, self.position.step)
        self.network.update(self.config.lr, self.config.l2)
        return loss

    def epoch(self, on_step: Callable[["Trainer"], None] = lambda trainer: None) -> float:
        """Complete the current epoch, from wherever it stands; returns the mean loss of its samples.

        `on_step` is called after every step and may raise, `Interrupted` for one: the position stays true.
        """
        position, batch = self.position, self.config.batch
        order = self._shuffled(position.epoch)
        # A run that diverges overflows first: that is told once, by the loss, not by NumPy's warnings.
        with np.errstate(over="ignore", invalid="ignore"):
            while position.step < self.steps:
                start = position.step * batch
                position.loss_sum += self.step(order[start : start + batch])
                position.step += 1
                on_step(self)
        mean = position.loss_sum / len(order)
        position.epoch, position.step, position.loss_sum = position.epoch + 1, 0, 0.0
        return mean

    def run(self, on_step: Callable[["Trainer"], None] = lambda trainer: None) -> Iterator[dict[str, Any]]:
        """Train to the last epoch; yields the record of every epoch as it ends."""
        while self.position.epoch < self.config.epochs:
            begun = time.perf_counter()
            done_before = min(self.position.step * self.config.batch, len(self.training))
            train_loss = self.epoch(on_step)
            seconds = time.perf_counter() - begun
            self.check_finite()
            held_out = None
            if len(self.validation):
                held_out = self.evaluator.evaluate(self.train_data, self.validation)
            record = {
                "epoch": self.position.epoch,
                "train_loss": train_loss,
                "validation_loss": held_out.loss if held_out else None,
                "validation_accuracy": held_out.accuracy if held_out else None,
                "seconds": seconds,
                "samples_per_second": (len(self.training) - done_before) / seconds,
            }
            self.position.history.append(record)
            yield record

    def check_finite(self) -> None:
        """Raise DivergedError if a parameter is infinite or not a number: the last update overflowed."""
        if not self.network.is_finite():
            # Between epochs the step was the last of the one before.
            epoch, step = self.position.epoch, self.position.step
            epoch, step = (epoch, step - 1) if step else (epoch - 1, self.steps - 1)
            raise self._diverged("a weight became infinite or not a number", epoch, step)

    def _diverged(self, what: str, epoch: int, step: int) -> DivergedError:
        at = f"epoch {epoch + 1}, step {step + 1}"
        return DivergedError(f"{what} in {at}: give a smaller --lr than {self.config.lr:g}")

    def _shuffled(self, epoch: int) -> npt.NDArray[np.intp]:
        """The order of an epoch's samples: depends on seed and epoch alone, so a resumed run repeats it."""
        generator = np.random.default_rng((self.config.seed, SHUFFLE_STREAM, epoch))
        return generator.permutation(self.training)
