"""The training loop of one rank: epochs of steps over shuffled samples, and the evaluation between them."""

import math
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from nnkit.contracts import Array, Device, GemmBackend, Traffic
from nnkit.data import Dataset, split_validation
from nnkit.data.dataset import CLASSES
from nnkit.errors import DivergedError, RanksDisagreeError, UsageError
from nnkit.nn.initialise import Parameters, initial_parameters
from nnkit.nn.network import Network
from nnkit.train.config import TrainConfig
from nnkit.train.elastic import Copies, Version, rebuild
from nnkit.train.evaluation import EVALUATION_BATCH, Data, Evaluator
from nnkit.train.position import Position
from nnkit.train.ranks import Ranks
from nnkit.train.slices import assemble, cut, difference, digests

SHUFFLE_STREAM = 0xB47C4
"""Keeps the generator of the shuffles apart from those of the parameters."""

ATTENTION = 0.1
"""Seconds between two questions to the other ranks whether somebody has asked to stop."""

Result = TypeVar("Result")


class Interrupted(Exception):
    """The run was asked to stop, and did so after a step."""


@dataclass
class Cost:
    """What this rank's training steps have cost so far."""

    steps: int = 0
    seconds: float = 0.0
    sums: int = 0
    bytes: int = 0
    """The size of what was summed over ranks."""
    exposed_seconds: float = 0.0
    """Of `seconds`, waiting for sums."""
    hidden_seconds: float = 0.0
    """Sums under way while this rank computed."""
    copies: int = 0
    """Exchanges of copies with the neighbours, where ranks may be lost."""
    copy_seconds: float = 0.0

    def add(self, seconds: float, before: Traffic, after: Traffic) -> None:
        """Count one step, and what its sums have cost."""
        self.steps += 1
        self.seconds += seconds
        self.sums += after.sums - before.sums
        self.bytes += after.bytes - before.bytes
        self.exposed_seconds += after.exposed - before.exposed
        self.hidden_seconds += after.hidden - before.hidden


@dataclass(frozen=True)
class Habits:
    """What a run does besides training, all of it for runs on several ranks."""

    refresh: int = 1
    """Steps between two exchanges of copies, where ranks may be lost."""
    paranoid: int = 0
    """Steps between two comparisons of what ranks share; 0 for the end alone."""


class Trainer:
    """Trains one network; made at its initial state, or at that of a checkpoint.

    With several ranks every public method is a common call: all make the same ones in the same order.
    """

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        device: Device[Array],
        gemm: GemmBackend[Array],
        ranks: Ranks,
        resumed: tuple[Parameters, Position] | None = None,
        habits: Habits = Habits(),
    ):
        self.config = config
        self.habits = habits
        self.training, self.validation = split_validation(
            dataset.train, config.validation_fraction, config.seed
        )
        if config.batch > len(self.training):
            left = len(self.training)
            raise UsageError(
                f"--batch {config.batch} is more than the {left} training samples: give {left} or less"
            )
        self.sizes = config.sizes(dataset.pixels, CLASSES)
        if resumed is None:
            resumed = initial_parameters(self.sizes, config.activation, config.seed), Position()
        # The position goes on from here; what was given stays as it is.
        parameters, self.position = resumed[0], deepcopy(resumed[1])
        self.ranks = ranks
        if not (ranks.is_first or ranks.elastic):
            # The losses so far are the first rank's, as if it had computed all of them.
            self.position.loss_sum = 0.0
        self.device, self.gemm = device, gemm
        self.operations = device.operations
        self.train_data = Data(dataset.train, device)
        self.test_data = Data(dataset.test, device)
        self.stop_requested = False
        """Set by whoever wants the run to stop; with several ranks, on any of them."""
        self.must_stop = False
        """Whether the ranks have agreed to stop after this step."""
        self.recoveries: list[str] = []
        """A line about every loss of ranks that this run has survived."""
        self.restarts: list[tuple[int, int, int]] = []
        """From which epoch and step it then went on, both counted from 0, and with how many ranks."""
        self.cost = Cost()
        self._until_asked, self._step_seconds = 0, math.inf
        self._place(parameters)

    @property
    def steps(self) -> int:
        """The steps of an epoch, the last, shorter one included."""
        return math.ceil(len(self.training) / self.config.batch)

    def step(self, index: npt.NDArray[np.intp]) -> float:
        """One minibatch: gather, forward, backward, update. Returns the sum of this rank's losses.

        Where ranks may be lost it is the sum over all ranks, and a step is repeated by those left, on the
        newest network there is; `epoch`, not this, goes back to that one's step.
        Raises DivergedError, before the update, if the loss is infinite or not a number.
        """
        return self._step(lambda: self._compute(index))

    def epoch(self, on_step: Callable[["Trainer"], None] = lambda trainer: None) -> float:
        """Complete the current epoch, from wherever it stands; returns the mean loss of its samples.

        `on_step` is called after every step and may raise, `Interrupted` for one: the position stays true.
        """
        batch, order = self.config.batch, self._shuffled(self.position.epoch)
        # A run that diverges overflows first: that is told once, by the loss, not by NumPy's warnings.
        with np.errstate(over="ignore", invalid="ignore"):
            while self.position.step < self.steps or not self._settled():
                # A lost rank can take the run some steps back, so the place is asked for each time.
                loss = self._step(lambda: self._compute(self._batch(order, batch)))
                self.position.loss_sum += loss
                self.position.step += 1
                self._look_around()
                on_step(self)
        mean = self._together(self._losses) / len(order)
        self.position.epoch, self.position.step, self.position.loss_sum = self.position.epoch + 1, 0, 0.0
        self._copies.move(self.position)
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
                held_out = self._together(lambda: self.evaluator.evaluate(self.train_data, self.validation))
            record = {
                "epoch": self.position.epoch,
                "train_loss": train_loss,
                "validation_loss": held_out.loss if held_out else None,
                "validation_accuracy": held_out.accuracy if held_out else None,
                "seconds": seconds,
                "samples_per_second": (len(self.training) - done_before) / seconds,
            }
            self.position.history.append(record)
            self._copies.move(self.position)
            yield record

    def together(self, action: Callable[["Trainer"], Result]) -> Result:
        """Do something in which all ranks take part; repeated by those that are left if one is lost."""
        return self._together(lambda: action(self))

    def whole(self) -> tuple[Parameters, Position]:
        """The whole network and the position of all ranks, on rank 0; on the others their own part."""
        own, position = self.network.download(), deepcopy(self.position)
        if self.ranks.size == 1:
            return own, position
        position.loss_sum = self._losses()
        mine = cut(self.ranks.places, own) if self.ranks.strategy.first_copy else []
        parts = self.ranks.transport.gather(mine)
        if not self.ranks.is_first:
            return own, position
        return assemble(self.sizes, [part for part in parts if part], self.network.dtype), position

    def check_finite(self) -> None:
        """Raise DivergedError if a parameter is infinite or not a number: the last update overflowed."""
        if not self._together(lambda: self.ranks.all(self.network.is_finite())):
            # Between epochs the step was the last of the one before.
            epoch, step = self.position.epoch, self.position.step
            epoch, step = (epoch, step - 1) if step else (epoch - 1, self.steps - 1)
            raise self._diverged("a weight became infinite or not a number", epoch, step)

    def check_replicas(self) -> None:
        """Compare a hash of all that ranks share. Raises RanksDisagreeError that names layer and rank."""
        found = self._together(self._compare)
        if found:
            raise RanksDisagreeError(
                f"{found}: they have computed different networks: "
                "look for a sum that does not give all ranks the same bits"
            )

    # -- one step -------------------------------------------------------------------------------------------

    def _step(self, compute: Callable[[], float]) -> float:
        begun, before = time.perf_counter(), replace(self.ranks.transport.traffic)
        loss = self._together(compute)
        self._copies.confirm()
        self.network.update(self.config.lr, self.config.l2)
        self._step_seconds = time.perf_counter() - begun
        self.cost.add(self._step_seconds, before, self.ranks.transport.traffic)
        return loss

    def _batch(self, order: npt.NDArray[np.intp], batch: int) -> npt.NDArray[np.intp]:
        start = self.position.step * batch
        return order[start : start + batch]

    def _compute(self, index: npt.NDArray[np.intp]) -> float:
        """Everything of a step but the update: what all ranks must have done before one changes anything."""
        ranks = self.ranks
        if self._is_due():
            self._exchange_copies()
        mine = index[ranks.strategy.samples(len(index))]
        flow = self.network.buffers(len(mine))
        self.operations.gather_images(self.train_data.images, mine, flow.images)
        self.operations.gather_labels(self.train_data.labels, mine, flow.labels)
        self.network.forward(flow)
        self.network.backward(flow, divisor=len(index))
        loss = self.operations.total(flow.losses)
        ranks.strategy.finish_gradients()
        # Of several ranks one may have a bad loss alone; the summed gradient tells all of them.
        if not (math.isfinite(loss) if ranks.size == 1 else self.network.gradient_is_finite()):
            what = loss if not math.isfinite(loss) else "infinite or not a number"
            raise self._diverged(f"the loss became {what}", self.position.epoch, self.position.step)
        return ranks.total(loss) if ranks.elastic else loss

    def _losses(self) -> float:
        """The sum of the losses of the epoch's samples, over all ranks."""
        return self.position.loss_sum if self.ranks.elastic else self.ranks.total(self.position.loss_sum)

    def _look_around(self) -> None:
        """Between steps: whether replicas agree, and whether any rank was asked to stop."""
        if self.habits.paranoid and self.position.step % self.habits.paranoid == 0:
            self.check_replicas()
        if self.ranks.size == 1:
            self.must_stop = self.stop_requested
            return
        self._until_asked -= 1
        if self._until_asked <= 0:
            said = self._together(
                lambda: self.ranks.transport.exchange((self.stop_requested, self._step_seconds))
            )
            self.must_stop = any(stop for stop, _ in said)
            self._until_asked = int(ATTENTION / max(said[0][1], 1e-4))

    def _compare(self) -> str:
        found = digests(self.ranks.places, self.network.download())
        return difference(self.ranks.transport.exchange(found))

    # -- losing ranks ---------------------------------------------------------------------------------------

    def _together(self, action: Callable[[], Result]) -> Result:
        return self.ranks.attempt(action, self._recover)

    def _is_due(self) -> bool:
        """Whether copies must be exchanged before this step."""
        return self._keeps_copies() and self.position.step % self.habits.refresh == 0

    def _keeps_copies(self) -> bool:
        return self.ranks.elastic and self.ranks.is_split

    def _settled(self) -> bool:
        """Exchange copies at the end of an epoch, so that no loss leads back into it; False if one did."""
        if self._keeps_copies():
            self._together(self._exchange_copies)
            self._copies.confirm()
        return self.position.step == self.steps

    def _exchange_copies(self) -> None:
        # Asked again here: those that are left after a loss may each hold the whole network.
        if self._keeps_copies():
            begun = time.perf_counter()
            own = cut(self.ranks.places, self.network.download())
            self._copies.refresh(self.position, own, self.ranks.transport)
            self.cost.copies += 1
            self.cost.copy_seconds += time.perf_counter() - begun

    def _recover(self) -> None:
        """Go on with the ranks that are left, from the newest network that they have between them."""
        begun, before = time.perf_counter(), (self.position.epoch, self.position.step)
        live = Version(deepcopy(self.position), [cut(self.ranks.places, self.network.download())])
        versions = [*self._copies.versions, live]
        found = None
        while found is None:
            self.ranks.shrink()
            found = self.ranks.agreed(lambda: self._rebuild(versions))
        parameters, self.position = found()
        self._place(parameters)
        self.restarts.append((self.position.epoch, self.position.step, self.ranks.size))
        epochs, steps = before[0] - self.position.epoch, before[1] - self.position.step
        back = epochs * self.steps + steps
        where = f"from epoch {self.position.epoch + 1}, step {self.position.step + 1}"
        if self.position.epoch == self.config.epochs:
            where = "after the last epoch"
        self.recoveries.append(
            f"lost {self.ranks.lost} of {self.ranks.size + self.ranks.lost} ranks; going on with "
            f"{self.ranks.size} {where}"
            f"{f', {back} steps back' if back else ''}, after {time.perf_counter() - begun:.2f} s"
        )

    def _rebuild(self, versions: list[Version]) -> tuple[Parameters, Position]:
        """The newest whole network, and the ranks' places for it."""
        self.ranks.place()
        return rebuild(self.sizes, versions, self.ranks.transport, self.network.dtype)

    def _place(self, parameters: Parameters) -> None:
        """Take this rank's part of the network."""
        max_batch = max(self.config.batch, EVALUATION_BATCH)
        strategy = self.ranks.strategy
        self.network = Network(
            parameters, self.config.activation, self.device, self.gemm, strategy, max_batch
        )
        self.evaluator = Evaluator(self.network, self.ranks)
        # Copies of an earlier split must not come back where none are made any more.
        self._copies = Copies()
        if self._keeps_copies():
            # Until copies have been exchanged every rank has the whole network, from which it took its part.
            every = cut([(0, len(weight), 0, weight.shape[1]) for weight, _ in parameters], parameters)
            self._copies.keep(Version(deepcopy(self.position), [every]))

    def _diverged(self, what: str, epoch: int, step: int) -> DivergedError:
        at = f"epoch {epoch + 1}, step {step + 1}"
        return DivergedError(f"{what} in {at}: give a smaller --lr than {self.config.lr:g}")

    def _shuffled(self, epoch: int) -> npt.NDArray[np.intp]:
        """The order of an epoch's samples: depends on seed and epoch alone, so a resumed run repeats it."""
        generator = np.random.default_rng((self.config.seed, SHUFFLE_STREAM, epoch))
        return generator.permutation(self.training)
