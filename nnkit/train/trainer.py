"""The training loop of one rank: epochs of steps over shuffled samples, and the evaluation between them."""

import math
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from nnkit.contracts import Array, Device, GemmBackend
from nnkit.data import Dataset, split_validation
from nnkit.data.dataset import CLASSES
from nnkit.errors import DivergedError, RanksDisagreeError, UsageError
from nnkit.nn.initialise import Parameters, initial_parameters
from nnkit.nn.network import Network
from nnkit.train.config import TrainConfig
from nnkit.train.elastic import Copies, Snapshot, rebuild
from nnkit.train.evaluation import EVALUATION_BATCH, DeviceSamples, Evaluator
from nnkit.train.position import Position
from nnkit.train.ranks import Ranks
from nnkit.train.shards import assemble, cut, difference, digests
from nnkit.train.timing import Cost

SHUFFLE_STREAM = 0xB47C4
"""Keeps the generator of the shuffles apart from those of the parameters."""

STOP_POLL_SECONDS = 0.1
"""Time from one question to all ranks, whether one of them was asked to stop, to the next."""

Result = TypeVar("Result")


class Interrupted(Exception):
    """The run was asked to stop, and has stopped after a complete step."""


@dataclass(frozen=True)
class Intervals:
    """How often ranks do what is not training, in steps."""

    refresh: int = 1
    """Steps from one exchange of copies with the neighbours to the next, where ranks may be lost."""
    paranoid: int = 0
    """Steps from one comparison of replicas to the next; 0: compare only at the end of the run."""


class Trainer:
    """Trains one network, from random parameters or from a checkpoint's.

    With several ranks every public method is collective: all ranks call the same ones in the same order.
    """

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        device: Device[Array],
        gemm: GemmBackend[Array],
        ranks: Ranks,
        resumed: tuple[Parameters, Position] | None = None,
        intervals: Intervals = Intervals(),
    ):
        self.config = config
        self.intervals = intervals
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
        # Training changes the position: the caller's must stay as it is.
        parameters, self.position = resumed[0], deepcopy(resumed[1])
        self.ranks = ranks
        if not (ranks.is_first or ranks.elastic):
            # The checkpoint has the sum over all ranks: the first rank takes it, so that it counts once.
            self.position.loss_sum = 0.0
        self.device, self.gemm = device, gemm
        self.operations = device.operations
        self.train_data = DeviceSamples(dataset.train, device)
        self.test_data = DeviceSamples(dataset.test, device)
        self.stop_requested = False
        """Set by whoever wants the run to stop; with several ranks, on any of them."""
        self.must_stop = False
        """Whether the ranks have agreed to stop after this step."""
        self.recoveries: list[str] = []
        """One line for each time that ranks were lost and the others went on."""
        self.restarts: list[tuple[int, int, int]] = []
        """For each recovery: the epoch and step it went on from, counted from 0, and the ranks left."""
        self.cost = Cost()
        self._steps_until_poll, self._step_seconds = 0, math.inf
        self._load(parameters)

    @property
    def steps(self) -> int:
        """Steps in an epoch; the last one may have fewer samples."""
        return math.ceil(len(self.training) / self.config.batch)

    def step(self, index: npt.NDArray[np.intp]) -> float:
        """One minibatch: gather, forward, backward, update. Returns the sum of the losses of its samples.

        The sum is over this rank's samples; in elastic runs it is over all ranks. There, a lost rank makes
        the others repeat the step on the newest network they have, which may be one from some steps back:
        `epoch` then goes back to that step, this method does not.
        Raises DivergedError, before the update, if the loss is infinite or not a number.
        """
        return self._step(lambda: self._compute(index))

    def epoch(self, on_step: Callable[["Trainer"], None] = lambda trainer: None) -> float:
        """Train to the end of the current epoch; returns the mean loss of its samples.

        `on_step` is called after every step. It may raise an exception (such as `Interrupted`): the position
        is right even then.
        """
        batch, order = self.config.batch, self._shuffled(self.position.epoch)
        # A run that diverges overflows first. The loss reports that once; NumPy's warnings would repeat it.
        with np.errstate(over="ignore", invalid="ignore"):
            while self.position.step < self.steps or not self._epoch_is_complete():
                # After a lost rank the run may be some steps back: read the position anew each time.
                loss = self._step(lambda: self._compute(self._batch(order, batch)))
                self.position.loss_sum += loss
                self.position.step += 1
                self._after_step()
                on_step(self)
        mean = self._together(self._losses) / len(order)
        self.position.epoch, self.position.step, self.position.loss_sum = self.position.epoch + 1, 0, 0.0
        self._copies.move(self.position)
        return mean

    def run(self, on_step: Callable[["Trainer"], None] = lambda trainer: None) -> Iterator[dict[str, Any]]:
        """Train to the last epoch; yields the record of every epoch (see README) as it ends."""
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
        """Run a collective action; if a rank is lost meanwhile, those that are left repeat it."""
        return self._together(lambda: action(self))

    def whole(self) -> tuple[Parameters, Position]:
        """On rank 0 the whole network and position, for a checkpoint; on the others their own part."""
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
        """Raise DivergedError if a parameter is infinite or not a number: then the last update overflowed."""
        if not self._together(lambda: self.ranks.all(self.network.is_finite())):
            # At the start of an epoch the bad update was the last one of the epoch before.
            epoch, step = self.position.epoch, self.position.step
            epoch, step = (epoch, step - 1) if step else (epoch - 1, self.steps - 1)
            raise self._diverged("a weight became infinite or not a number", epoch, step)

    def check_replicas(self) -> None:
        """Compare hashes of the parameters that several ranks hold.

        Raises RanksDisagreeError, which names the layer and the ranks.
        """
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
        """A step without its update. All ranks must have finished this before any of them updates."""
        ranks = self.ranks
        if self._is_due():
            self._exchange_copies()
        mine = index[ranks.strategy.samples(len(index))]
        buffers = self.network.buffers(len(mine))
        self.operations.gather_images(self.train_data.images, mine, buffers.images)
        self.operations.gather_labels(self.train_data.labels, mine, buffers.labels)
        self.network.forward(buffers)
        self.network.backward(buffers, divisor=len(index))
        loss = self.operations.total(buffers.losses)
        ranks.strategy.finish_gradients()
        # The loss may be bad on one rank alone. The summed gradient is the same on all, so all see it.
        if not (math.isfinite(loss) if ranks.size == 1 else self.network.gradient_is_finite()):
            what = loss if not math.isfinite(loss) else "infinite or not a number"
            raise self._diverged(f"the loss became {what}", self.position.epoch, self.position.step)
        return ranks.total(loss) if ranks.elastic else loss

    def _losses(self) -> float:
        """The sum of the losses of this epoch's samples so far, over all ranks."""
        return self.position.loss_sum if self.ranks.elastic else self.ranks.total(self.position.loss_sum)

    def _after_step(self) -> None:
        """Compare replicas, and learn whether any rank was asked to stop, each at its interval."""
        if self.intervals.paranoid and self.position.step % self.intervals.paranoid == 0:
            self.check_replicas()
        if self.ranks.size == 1:
            self.must_stop = self.stop_requested
            return
        self._steps_until_poll -= 1
        if self._steps_until_poll <= 0:
            answers = self._together(
                lambda: self.ranks.transport.exchange((self.stop_requested, self._step_seconds))
            )
            self.must_stop = any(stop for stop, _ in answers)
            # From rank 0's time of a step, so that all ranks ask again after the same step.
            self._steps_until_poll = int(STOP_POLL_SECONDS / max(answers[0][1], 1e-4))

    def _compare(self) -> str:
        own = digests(self.ranks.places, self.network.download())
        return difference(self.ranks.transport.exchange(own))

    # -- losing ranks ---------------------------------------------------------------------------------------

    def _together(self, action: Callable[[], Result]) -> Result:
        return self.ranks.attempt(action, self._recover)

    def _is_due(self) -> bool:
        """Whether copies must be exchanged before this step."""
        return self._keeps_copies() and self.position.step % self.intervals.refresh == 0

    def _keeps_copies(self) -> bool:
        return self.ranks.elastic and self.ranks.is_split

    def _epoch_is_complete(self) -> bool:
        """Exchange copies at the end of an epoch, so that no later recovery goes back into it.

        False if a rank is lost during this exchange and the run has gone back into the epoch.
        """
        if self._keeps_copies():
            self._together(self._exchange_copies)
            self._copies.confirm()
        return self.position.step == self.steps

    def _exchange_copies(self) -> None:
        # Ask again: after a recovery each rank that is left may hold the whole network.
        if self._keeps_copies():
            begun = time.perf_counter()
            own = cut(self.ranks.places, self.network.download())
            self._copies.refresh(self.position, own, self.ranks.transport)
            self.cost.copies += 1
            self.cost.copy_seconds += time.perf_counter() - begun

    def _recover(self) -> None:
        """Go on with the ranks that are left, from the newest network that they hold together."""
        begun, before = time.perf_counter(), (self.position.epoch, self.position.step)
        live = Snapshot(deepcopy(self.position), [cut(self.ranks.places, self.network.download())])
        snapshots = [*self._copies.snapshots, live]
        found = None
        while found is None:
            self.ranks.shrink()
            found = self.ranks.agreed(lambda: self._rebuild(snapshots))
        parameters, self.position = found()
        self._load(parameters)
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

    def _rebuild(self, snapshots: list[Snapshot]) -> tuple[Parameters, Position]:
        """Split the work over the ranks that are left, and assemble the newest whole network."""
        self.ranks.partition()
        return rebuild(self.sizes, snapshots, self.ranks.transport, self.network.dtype)

    def _load(self, parameters: Parameters) -> None:
        """Put this rank's part of the whole network on the device."""
        max_batch = max(self.config.batch, EVALUATION_BATCH)
        strategy = self.ranks.strategy
        self.network = Network(
            parameters, self.config.activation, self.device, self.gemm, strategy, max_batch
        )
        self.evaluator = Evaluator(self.network, self.ranks)
        # Copies made for an earlier partition would be out of date if this one makes no copies.
        self._copies = Copies()
        if self._keeps_copies():
            # Until the first exchange every rank still has the whole network, from which it took its part.
            every = cut([(0, len(weight), 0, weight.shape[1]) for weight, _ in parameters], parameters)
            self._copies.keep(Snapshot(deepcopy(self.position), [every]))

    def _diverged(self, what: str, epoch: int, step: int) -> DivergedError:
        at = f"epoch {epoch + 1}, step {step + 1}"
        return DivergedError(f"{what} in {at}: give a smaller --lr than {self.config.lr:g}")

    def _shuffled(self, epoch: int) -> npt.NDArray[np.intp]:
        """The order of an epoch's samples. It depends on seed and epoch alone: a resumed run repeats it."""
        generator = np.random.default_rng((self.config.seed, SHUFFLE_STREAM, epoch))
        return generator.permutation(self.training)
