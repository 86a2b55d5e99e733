"""Progress of a training run: a live bar on a terminal, one plain line an epoch elsewhere."""

import sys
import time
from types import TracebackType
from typing import Any, TextIO

from nnkit.train.trainer import Trainer

REFRESH_SECONDS = 0.1


class Progress:
    """Shows nothing, for `--quiet`. The base class of the others."""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def step(self, trainer: Trainer) -> None:
        """Called when a step is complete."""

    def epoch(self, record: dict[str, Any]) -> None:
        """Called when an epoch is complete."""


class Lines(Progress):
    """One plain line an epoch."""

    def __init__(self, epochs: int, stream: TextIO):
        self.epochs = epochs
        self.stream = stream

    def epoch(self, record: dict[str, Any]) -> None:
        """Print the epoch's line."""
        print(describe(record, self.epochs), file=self.stream, flush=True)


class Bar(Progress):
    """One line an epoch, and below a live bar with this rank's loss, samples per second and time left."""

    def __init__(self, trainer: Trainer, stream: TextIO):
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self.epochs = trainer.config.epochs
        self.console = Console(file=stream, highlight=False)
        self.bar = RichProgress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(bar_width=None),
            TextColumn("loss {task.fields[loss]:.4f}  {task.fields[rate]:,.0f} samples/s  left"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            transient=True,
            auto_refresh=False,
            expand=True,
        )
        done = trainer.position.epoch * trainer.steps + trainer.position.step
        self.task = self.bar.add_task(
            "",
            total=self.epochs * trainer.steps,
            completed=done,
            epoch=1,
            epochs=self.epochs,
            loss=0.0,
            rate=0.0,
        )
        self.shown_at = self.begun = time.perf_counter()
        self.done_at_start = done

    def __enter__(self) -> "Bar":
        self.begun = time.perf_counter()
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def step(self, trainer: Trainer) -> None:
        """Redraw, at most ten times a second."""
        now = time.perf_counter()
        if now - self.shown_at < REFRESH_SECONDS:
            return
        self.shown_at = now
        position, batch = trainer.position, trainer.config.batch
        done = position.epoch * trainer.steps + position.step
        samples = min(position.step * batch, len(trainer.training))
        self.bar.update(
            self.task,
            completed=done,
            epoch=position.epoch + 1,
            loss=position.loss_sum / samples if samples else 0.0,
            rate=(done - self.done_at_start) * batch / (now - self.begun),
            refresh=True,
        )

    def epoch(self, record: dict[str, Any]) -> None:
        """Print the epoch's line above the bar."""
        self.console.print(describe(record, self.epochs), soft_wrap=True)


def progress(trainer: Trainer, quiet: bool, to_stderr: bool, plain: bool) -> Progress:
    """The progress to show on standard output or error; `plain`: no bar, even if that seems a terminal."""
    stream = sys.stderr if to_stderr else sys.stdout
    if quiet:
        return Progress()
    return Bar(trainer, stream) if stream.isatty() and not plain else Lines(trainer.config.epochs, stream)


def describe(record: dict[str, Any], epochs: int) -> str:
    """An epoch's record (see `Trainer.run`) as a line."""
    line = f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}  loss {record['train_loss']:.4f}"
    if record["validation_loss"] is not None:
        accuracy = 100 * record["validation_accuracy"]
        line += f"  validation loss {record['validation_loss']:.4f}, accuracy {accuracy:.2f} %"
    return line + f"  {record['seconds']:.2f} s, {record['samples_per_second']:,.0f} samples/s"
