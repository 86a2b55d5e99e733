"""`nnkit train`: the whole job, from options to a trained, tested network."""

import shlex
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nnkit.cli import options
from nnkit.cli.options import note, print_json
from nnkit.errors import DivergedError, UsageError

if TYPE_CHECKING:
    from nnkit.train.checkpoints import Checkpoint
    from nnkit.train.config import TrainConfig
    from nnkit.train.trainer import Trainer


def train(
    context: typer.Context,
    hidden: Annotated[
        str, typer.Option("-n", "--hidden", help="Neurons of each hidden layer: 100, or 300,100.")
    ] = "100",
    epochs: Annotated[int, typer.Option("-e", "--epochs", help="Passes over the training set.")] = 20,
    batch: Annotated[int, typer.Option("-b", "--batch", help="Samples in a minibatch.")] = 100,
    lr: Annotated[float, typer.Option("-l", "--lr", help="Learning rate.")] = 1.0,
    l2: Annotated[float, typer.Option("-r", "--l2", help="L2 penalty on the weights.")] = 1e-5,
    activation: Annotated[str, typer.Option(help="Of the hidden layers: sigmoid, tanh or relu.")] = "sigmoid",
    seed: Annotated[int, typer.Option(help="Decides the first weights, the split and the shuffles.")] = 0,
    validation_fraction: Annotated[
        float, typer.Option(help="Part of the training set to validate on.")
    ] = 0.1,
    backend: options.Backend = "numpy",
    device: options.Device = "auto",
    comm: Annotated[str, typer.Option(help="How to distribute; nnkit backends lists the ways.")] = "none",
    data: options.Data = None,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Save the network there after every epoch.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint.")] = False,
    metrics: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write JSON lines, one an epoch.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw loss, accuracy and confusion (.png).")
    ] = None,
    json: options.Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print no progress.")] = False,
) -> int:
    """Train a network to recognise handwritten digits, and test it."""
    # The imports that cost time come after the options are known to make sense.
    from nnkit.train.config import TrainConfig, parse_hidden

    begun = time.perf_counter()
    config = TrainConfig(
        hidden=parse_hidden(hidden),
        epochs=epochs,
        batch=batch,
        lr=lr,
        l2=l2,
        activation=activation,
        seed=seed,
        validation_fraction=validation_fraction,
        backend=backend,
        device=device,
        comm=comm,
    )
    if resume and checkpoint is None:
        raise UsageError("--resume needs --checkpoint DIR: which checkpoint shall be resumed?")

    from nnkit.train.checkpoints import FILE_NAME, load_checkpoint

    saved = None
    if resume and checkpoint is not None:
        saved = load_checkpoint(checkpoint)
        config = _resumed_config(context, config, saved.config)
    elif checkpoint is not None and (checkpoint / FILE_NAME).exists():
        raise UsageError(
            f"--checkpoint {checkpoint} holds a checkpoint already: "
            "add --resume to go on from it, or give another directory"
        )
    run = _Run(config, data, checkpoint, metrics, plot, quiet=quiet, json=json)
    try:
        run.prepare(saved)
        return run.train(begun)
    finally:
        run.close()


def _resumed_config(context: typer.Context, given: "TrainConfig", saved: "TrainConfig") -> "TrainConfig":
    """The checkpoint's configuration, with what was given on the command line; some fields may not differ."""
    from dataclasses import replace

    from nnkit.train.config import SHAPING

    named: dict[str, Any] = {}
    for field in given.to_json():
        source = context.get_parameter_source(field)
        if source is not None and source.name != "DEFAULT":
            named[field] = getattr(given, field)
    for field in SHAPING:
        if field in named and named[field] != getattr(saved, field):
            option = "--" + field.replace("_", "-")
            raise UsageError(
                f"{option} {named[field]}: the checkpoint was made with {getattr(saved, field)}, "
                f"and a resumed run cannot change it: leave {option} out"
            )
    return replace(saved, **named)


class _Run:
    """One run of `nnkit train`: the trainer, what it writes, and how it ends."""

    def __init__(
        self,
        config: "TrainConfig",
        data: Path | None,
        directory: Path | None,
        metrics: Path | None,
        plot: Path | None,
        quiet: bool,
        json: bool,
    ):
        from nnkit.train.metrics import MetricsFile
        from nnkit.train.plot import check_plot

        self.config = config
        self.data = data
        self.directory = directory
        self.plot = plot
        self.quiet = quiet
        self.json = json
        self.stop_requested = False
        if plot is not None:
            check_plot(plot)
        self.metrics = MetricsFile(metrics) if metrics is not None else None

    def prepare(self, saved: "Checkpoint | None") -> None:
        """Resolve backends, open the device, build the trainer: what can be refused is refused here."""
        from nnkit.cli.progress import progress
        from nnkit.comm.single import SingleTransport
        from nnkit.data import load_dataset
        from nnkit.data.dataset import CLASSES
        from nnkit.device import open_device_for
        from nnkit.plugins import Registry, check_serves
        from nnkit.train.trainer import Trainer

        config = self.config
        dataset = load_dataset(self.data)
        if saved is not None and saved.fingerprint != dataset.fingerprint:
            raise UsageError("the checkpoint was trained on other data: give the same --data as then")
        if saved is not None and saved.sizes[0] != dataset.pixels:
            raise UsageError(f"the checkpoint is for images of {saved.sizes[0]} pixels, not {dataset.pixels}")
        if saved is not None and config.epochs < saved.position.epoch + (saved.position.step > 0):
            raise UsageError(
                f"--epochs {config.epochs}: the checkpoint is in epoch {saved.position.epoch + 1} already: "
                "give more to go on, or use nnkit evaluate"
            )
        registry = Registry.discover()
        gemm = registry.gemm(config.backend)
        self.device, self.why = open_device_for(gemm.devices, config.device)
        check_serves(gemm, self.device.name, "float32")
        self.transport = SingleTransport()
        strategy = registry.comm(config.comm).strategy(self.transport, config.sizes(dataset.pixels, CLASSES))
        resumed = (saved.parameters, saved.position) if saved else None
        self.fingerprint = dataset.fingerprint
        self.trainer = Trainer(config, dataset, self.device, gemm, strategy, resumed)
        self.progress = progress(self.trainer, quiet=self.quiet, to_stderr=self.json)
        # The first checkpoint shows that the directory can be written and has room, before any work.
        self.save()
        if self.metrics:
            self.metrics.start(self.trainer.position.history)

    def save(self) -> None:
        """Replace the checkpoint by the present state, if one was asked for."""
        from nnkit.train.checkpoints import Checkpoint

        if self.directory is not None:
            trainer = self.trainer
            parameters = trainer.network.download()
            Checkpoint(parameters, self.config, trainer.position, self.fingerprint).save(self.directory)

    def train(self, begun: float) -> int:
        """Train, test and report; returns the exit status."""
        from nnkit.train.trainer import Interrupted

        trainer = self.trainer
        if not self.quiet:
            self._say(self._headline())
            if self.why:
                self._say(self.why)
        previous = signal.signal(signal.SIGINT, self._on_interrupt)
        try:
            with self.progress:
                for record in trainer.run(self._on_step):
                    self.save()
                    if self.metrics:
                        self.metrics.write(record)
                    self.progress.epoch(record)
        except Interrupted:
            return self._interrupted()
        except DivergedError as error:
            raise DivergedError(f"{error}; {self._what_is_saved()}") from None
        finally:
            signal.signal(signal.SIGINT, previous)
        self._finish(begun)
        return 0

    def close(self) -> None:
        """Give the metrics file back."""
        if self.metrics:
            self.metrics.close()

    def _finish(self, begun: float) -> None:
        """Test the network, then write and print the outcome."""
        trainer = self.trainer
        tested = trainer.evaluator.evaluate(trainer.test_data)
        if self.plot is not None:
            from nnkit.train.plot import draw

            draw(
                self.plot,
                trainer.position.history,
                trainer.evaluator.confusion(trainer.test_data),
                tested.accuracy,
            )
        done = {
            "event": "done",
            "test_accuracy": tested.accuracy,
            "test_loss": tested.loss,
            "total_seconds": time.perf_counter() - begun,
            "backend": self.config.backend,
            "device": self.device.name,
            "comm": self.config.comm,
            "ranks": self.transport.size,
        }
        if self.metrics:
            self.metrics.write(done)
        if self.json:
            print_json(done)
        else:
            print(
                f"test accuracy {100 * tested.accuracy:.2f} %, test loss {tested.loss:.4f}, "
                f"in {done['total_seconds']:.1f} s"
            )

    def _headline(self) -> str:
        trainer, config = self.trainer, self.config
        sizes = "-".join(str(layer.weight.shape[1]) for layer in trainer.network.layers) + "-10"
        position, start = trainer.position, ""
        if position.epoch == config.epochs:
            start = "; trained already, only tested"
        elif position.epoch or position.step:
            start = f"; resumed in epoch {position.epoch + 1} after step {position.step}"
        return (
            f"training {sizes} ({config.activation}) on {len(trainer.training)} samples, "
            f"{len(trainer.validation)} for validation; backend {config.backend}, device {self.device.name}, "
            f"comm {config.comm}{start}"
        )

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr if self.json else sys.stdout, flush=True)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        # A second Ctrl-C does not wait for the step.
        if self.stop_requested:
            raise KeyboardInterrupt
        self.stop_requested = True

    def _on_step(self, trainer: "Trainer") -> None:
        from nnkit.train.trainer import Interrupted

        if self.stop_requested:
            # What was saved is a good network: nothing else may replace it.
            trainer.check_finite()
            raise Interrupted
        self.progress.step(trainer)

    def _interrupted(self) -> int:
        """Save where the run stands and say how to go on; 130, as for any program that Ctrl-C ended."""
        self.save()
        position = self.trainer.position
        where = f"stopped in epoch {position.epoch + 1} after step {position.step} of {self.trainer.steps}"
        if self.directory is None:
            note(f"{where}; nothing was saved: train with --checkpoint DIR to be able to go on")
        else:
            again = ["nnkit", "train", "--checkpoint", str(self.directory), "--resume"]
            if self.data is not None:
                again += ["--data", str(self.data)]
            note(f"{where}; go on with: {shlex.join(again)}")
        return 130

    def _what_is_saved(self) -> str:
        if self.directory is None:
            return "nothing was saved"
        # Not position.epoch: weights that overflow in an epoch's last update are found after that is counted.
        epochs = len(self.trainer.position.history)
        return f"{self.directory} keeps the last checkpoint, with {epochs} complete epochs"
