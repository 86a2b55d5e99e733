"""One run of `nnkit train` on one rank: training, files, output, and stopping."""

import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt

from nnkit.cli.distribution import Distribution
from nnkit.cli.options import note, print_json
from nnkit.cli.progress import Lines, Progress, progress
from nnkit.comm.ending import LostAtStart
from nnkit.comm.joining import prepare
from nnkit.comm.world import local_rank, world_from_environment
from nnkit.contracts import Task, Transport
from nnkit.data import Dataset, load_dataset
from nnkit.data.dataset import CLASSES
from nnkit.device import open_device_for
from nnkit.errors import STOPPED, CommonError, DivergedError, UnrecoverableError, UsageError
from nnkit.plugins import Registry, check_serves
from nnkit.train.checkpoints import Checkpoint
from nnkit.train.config import TrainConfig
from nnkit.train.evaluation import Evaluation
from nnkit.train.metrics import MetricsFile
from nnkit.train.plot import check_plot, draw
from nnkit.train.ranks import Ranks
from nnkit.train.trainer import Interrupted, Intervals, Trainer

STOPPING = (signal.SIGINT, signal.SIGUSR1)
"""Signals that end a run after its present step: Ctrl-C, and SIGUSR1, which mpirun passes on to ranks."""


@dataclass(frozen=True)
class Files:
    """The files of a run, and its checkpoint's directory."""

    data: Path | None
    directory: Path | None
    metrics: Path | None
    plot: Path | None


class Run:
    """One rank's part of a run. The first rank prints and writes files for all."""

    def __init__(
        self,
        config: TrainConfig,
        distribution: Distribution,
        transport: Transport,
        files: Files,
        quiet: bool,
        json: bool,
    ):
        self.config = config
        self.distribution = distribution
        self.transport = transport
        self.files = files
        self.quiet = quiet
        self.json = json
        self.metrics: MetricsFile | None = None
        self.progress = Progress()
        self.interruptions = 0
        self.recoveries_reported = 0
        self.reported = False

    def complete(self, saved: Checkpoint | None, begun: float) -> int:
        """Prepare, train, test and report; returns the exit status."""
        facts: dict[str, Any] = {}
        dataset = prepare(self.transport, facts, lambda: self._prepare(saved, facts))
        return self._run(dataset, saved, begun)

    # -- before training ------------------------------------------------------------------------------------

    def _prepare(self, saved: Checkpoint | None, facts: dict[str, Any]) -> Dataset:
        """Load and open whatever needs no other rank; raises NnkitError for what is wrong."""
        config = self.config
        if self.transport.rank == 0 and self.files.plot is not None:
            check_plot(self.files.plot)
        if self.transport.rank == 0 and self.files.metrics is not None:
            self.metrics = MetricsFile(self.files.metrics)
        dataset = load_dataset(self.files.data)
        facts["the training data"] = dataset.fingerprint[:12]
        if saved is not None:
            _check_fits(saved, dataset, config.epochs)
        registry = Registry.discover()
        self.gemm = registry.gemm(config.backend)
        self.comm = registry.comm(config.comm)
        self.device, self.device_reason = open_device_for(self.gemm.devices, config.device, local_rank())
        check_serves(self.gemm, self.device.name, "float32")
        return dataset

    def _build(self, dataset: Dataset, saved: Checkpoint | None) -> None:
        """Make the trainer. If this fails it fails in the same way on all ranks."""
        config, distribution = self.config, self.distribution
        task = Task(config.sizes(dataset.pixels, CLASSES), config.batch, distribution.shape())
        ranks = Ranks(self.transport, self.comm, task, distribution.elastic)
        resumed = (saved.parameters, saved.position) if saved else None
        self.fingerprint = dataset.fingerprint
        intervals = Intervals(distribution.refresh, distribution.paranoid)
        self.trainer = Trainer(config, dataset, self.device, self.gemm, ranks, resumed, intervals)

    # -- the run --------------------------------------------------------------------------------------------

    @property
    def first(self) -> bool:
        """Whether this is the first rank now; it becomes so when those before it are lost."""
        return self.trainer.ranks.is_first

    def _run(self, dataset: Dataset, saved: Checkpoint | None, begun: float) -> int:
        with self._same_on_all_ranks():
            self._build(dataset, saved)
        # A rank that is lost before this point ends the run; after it, the others go on.
        if self.distribution.elastic and not self.transport.agree(True):
            raise LostAtStart("a rank is gone")
        trainer = self.trainer
        if self.first:
            # Under mpiexec, standard output looks like a terminal even if it goes to a file.
            plain = world_from_environment() is not None
            self.progress = progress(trainer, quiet=self.quiet, to_stderr=self.json, plain=plain)
        try:
            # Save once before any work: it shows that the directory can be written and the disk has space.
            self.save()
            if self.first and not self.quiet:
                self._print(self._headline())
                if self.device_reason:
                    self._print(self.device_reason)
            with self._signals():
                return self._train(begun)
        finally:
            if self.metrics:
                self.metrics.close()

    def _train(self, begun: float) -> int:
        trainer = self.trainer
        try:
            with self.progress:
                for record in trainer.run(self._on_step):
                    self.save()
                    self._report_recoveries()
                    self.progress.epoch(record)
            trainer.check_replicas()
            self._test_and_report(begun)
        except Interrupted:
            return self._interrupted()
        except DivergedError as error:
            raise DivergedError(f"{error}; {self._what_is_saved()}") from None
        except UnrecoverableError as error:
            self._report_recoveries()
            raise UnrecoverableError(f"{error}; {self._what_is_saved()}{self._how_to_go_on()}") from None
        return 0

    @contextmanager
    def _same_on_all_ranks(self) -> Iterator[None]:
        """Turn a UsageError, which all ranks raise here, into one that only the first rank prints."""
        try:
            yield
        except UsageError as error:
            raise CommonError(str(error), error.exit_status) from None

    def save(self) -> None:
        """Write the checkpoint and the metrics so far, if they were asked for."""
        if self.files.directory is not None or self.files.metrics is not None:
            self.trainer.together(self._save)

    def _save(self, trainer: Trainer) -> None:
        directory = self.files.directory
        whole = trainer.whole() if directory is not None else None

        def write() -> None:
            if directory is not None and whole is not None:
                parameters, position = whole
                Checkpoint(parameters, self.config, position, self.fingerprint).save(directory)
            self._write_metrics(trainer.position.history)

        trainer.ranks.first_does(write)

    def _write_metrics(self, records: list[dict[str, Any]]) -> None:
        """Append the new records; a rank that has become the first opens the file."""
        if self.files.metrics is not None:
            self.metrics = self.metrics or MetricsFile(self.files.metrics)
            self.metrics.write(records)

    def _test_and_report(self, begun: float) -> None:
        """Test the network, then write and print the outcome."""
        tested = self.trainer.together(lambda trainer: trainer.evaluator.evaluate(trainer.test_data))
        confusion = None
        if self.files.plot is not None:
            confusion = self.trainer.together(lambda trainer: trainer.evaluator.confusion(trainer.test_data))
        self._report_recoveries()

        def report(trainer: Trainer) -> None:
            # If a rank is lost meanwhile this runs again. The line must be printed once: a rank that is left
            # may be the one that has printed it.
            printed = any(trainer.ranks.transport.exchange(self.reported))
            trainer.ranks.first_does(lambda: self._report(tested, confusion, begun, printed))
            self.reported = True

        # Collective, so that no rank ends before: if the first rank is lost, the next one reports.
        self.trainer.together(report)
        self._report_recoveries()

    def _report(
        self, tested: Evaluation, confusion: npt.NDArray[np.int64] | None, begun: float, printed: bool
    ) -> None:
        trainer = self.trainer
        if self.files.plot is not None and confusion is not None:
            draw(self.files.plot, trainer.position.history, confusion, tested.accuracy)
        done = {
            "event": "done",
            "test_accuracy": tested.accuracy,
            "test_loss": tested.loss,
            "total_seconds": time.perf_counter() - begun,
            "backend": self.config.backend,
            "device": self.device.name,
            "comm": self.config.comm,
            "ranks": trainer.ranks.size,
            "lost_ranks": trainer.ranks.lost,
            "cost": asdict(trainer.cost),
        }
        self._write_metrics([*trainer.position.history, done])
        if printed:
            return
        self.reported = True
        if self.json:
            print_json(done)
        else:
            print(
                f"test accuracy {100 * tested.accuracy:.2f} %, test loss {tested.loss:.4f}, "
                f"in {done['total_seconds']:.1f} s",
                flush=True,
            )

    # -- messages -------------------------------------------------------------------------------------------

    def _headline(self) -> str:
        trainer, config = self.trainer, self.config
        sizes = "-".join(map(str, trainer.sizes))
        position, start, ranks = trainer.position, "", trainer.ranks
        if position.epoch == config.epochs:
            start = "; trained already, only tested"
        elif position.epoch or position.step:
            start = f"; resumed in epoch {position.epoch + 1} after step {position.step}"
        comm = config.comm
        if comm != "none":
            comm += f" on {ranks.size} rank{'s' * (ranks.size > 1)}"
        split = f" ({ranks.strategy.describes})" if ranks.size > 1 else ""
        return (
            f"training {sizes} ({config.activation}) on {len(trainer.training)} samples, "
            f"{len(trainer.validation)} for validation; backend {config.backend}, device {self.device.name}, "
            f"comm {comm}{split}{start}"
        )

    def _print(self, line: str) -> None:
        print(line, file=sys.stderr if self.json else sys.stdout, flush=True)

    def _report_recoveries(self) -> None:
        """Print, on the first rank, the recoveries from lost ranks that have not been printed yet."""
        lines = self.trainer.recoveries[self.recoveries_reported :]
        self.recoveries_reported += len(lines)
        if lines and self.first:
            if type(self.progress) is Progress and not self.quiet:
                self.progress = Lines(self.config.epochs, sys.stderr if self.json else sys.stdout)
            for line in lines:
                note(line)

    # -- stopping -------------------------------------------------------------------------------------------

    @contextmanager
    def _signals(self) -> Iterator[None]:
        previous = {number: signal.signal(number, self._on_interrupt) for number in STOPPING}
        try:
            yield
        finally:
            for number, handler in previous.items():
                # A signal that comes late must not kill a rank that has finished.
                signal.signal(number, handler if self.transport.size == 1 else signal.SIG_IGN)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        # A second Ctrl-C does not wait for the end of the step.
        self.interruptions += 1
        if self.interruptions > 1 and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.trainer.stop_requested = True

    def _on_step(self, trainer: Trainer) -> None:
        self._report_recoveries()
        if trainer.must_stop:
            # Weights that are not finite must not replace the good checkpoint.
            trainer.check_finite()
            raise Interrupted
        self.progress.step(trainer)

    def _interrupted(self) -> int:
        """Save the position and print how to go on; returns the exit status."""
        self.save()
        self._report_recoveries()
        if not self.first:
            return STOPPED
        position = self.trainer.position
        where = f"stopped in epoch {position.epoch + 1} after step {position.step} of {self.trainer.steps}"
        note(f"{where}{'' if self.files.directory else '; nothing was saved'}{self._how_to_go_on()}")
        return STOPPED

    def _how_to_go_on(self) -> str:
        if self.files.directory is None:
            return ": train with --checkpoint DIR to be able to go on"
        again = ["nnkit", "train", "--checkpoint", str(self.files.directory), "--resume"]
        if self.files.data is not None:
            again += ["--data", str(self.files.data)]
        if self.transport.size > 1:
            again += ["--comm", self.config.comm, "--ranks", str(self.trainer.ranks.size)]
            again += ["--deterministic"] * self.distribution.deterministic
            again += ["--elastic"] * self.distribution.elastic
            if self.distribution.transport != "auto":
                again += ["--transport", self.distribution.transport]
        return f"; go on with: {shlex.join(again)}"

    def _what_is_saved(self) -> str:
        if self.files.directory is None:
            return "nothing was saved"
        # Not position.epoch: that counts an epoch whose last update has overflowed, which is not saved.
        epochs = len(self.trainer.position.history)
        return f"{self.files.directory} keeps the last checkpoint, with {epochs} complete epochs"


def _check_fits(saved: Checkpoint, dataset: Dataset, epochs: int) -> None:
    """Raise UsageError unless this run can go on from the checkpoint."""
    if saved.fingerprint != dataset.fingerprint:
        raise UsageError("the checkpoint was trained on other data: give the same --data as then")
    if saved.sizes[0] != dataset.pixels:
        raise UsageError(f"the checkpoint is for images of {saved.sizes[0]} pixels, not {dataset.pixels}")
    if epochs < saved.position.epoch + (saved.position.step > 0):
        raise UsageError(
            f"--epochs {epochs}: the checkpoint has {saved.position.epoch} complete epochs already"
            f"{' and a part of the next' * (saved.position.step > 0)}: "
            "give more to go on, or use nnkit evaluate"
        )
