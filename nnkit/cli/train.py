"""`nnkit train`: from options to a trained and tested network."""

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nnkit.cli import options
from nnkit.cli.distribution import Distribution, join, start
from nnkit.comm.ending import together
from nnkit.comm.joining import in_turn, prepare
from nnkit.errors import UsageError

if TYPE_CHECKING:
    from nnkit.train.checkpoints import Checkpoint
    from nnkit.train.config import TrainConfig


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
        Path | None,
        typer.Option(metavar="FILE", help="Draw loss, accuracy and confusion (.png, .pdf, .svg)."),
    ] = None,
    ranks: Annotated[
        int | None, typer.Option(metavar="N", help="Start N ranks here; under mpirun leave it out.")
    ] = None,
    hostfile: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to start them: passed to mpiexec.")
    ] = None,
    transport: Annotated[
        str, typer.Option(help="What moves bytes between ranks; auto: MPI, if there are several.")
    ] = "auto",
    grid: Annotated[
        str | None, typer.Option(metavar="AxB", help="For hybrid: parts of the batch x of the network.")
    ] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Sum in the order of the ranks: the same bits every time.")
    ] = False,
    elastic: Annotated[bool, typer.Option("--elastic", help="Go on when ranks are lost.")] = False,
    refresh: Annotated[
        int, typer.Option(metavar="N", help="With --elastic: steps between two copies of a neighbour's part.")
    ] = 1,
    paranoid: Annotated[
        int, typer.Option(metavar="N", help="Compare what ranks share every N steps; 0: at the end alone.")
    ] = 0,
    json: options.Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print no progress.")] = False,
) -> int:
    """Train a network to recognise handwritten digits, and test it."""
    # Imported here, because `nnkit --help` should be fast.
    from nnkit.cli.run import Files, Run
    from nnkit.train.config import TrainConfig, parse_hidden

    begun = time.perf_counter()
    with in_turn():
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
        distribution = Distribution(
            ranks, hostfile, grid, deterministic, elastic, refresh, paranoid, transport
        )
        status = start(distribution, comm, checkpoint, context.obj)
    if status is not None:
        return status

    connected = join(distribution)
    files = Files(data, checkpoint, metrics, plot)

    def read() -> "tuple[TrainConfig, Checkpoint | None]":
        # The first rank reads for all: the others may be on hosts that do not have the file.
        if connected.rank:
            return config, None
        return _with_checkpoint(context, config, checkpoint, resume)

    facts = {f"--{name.replace('_', '-')}": value for name, value in config.to_json().items()}
    facts |= {
        f"--{name}": getattr(distribution, name)
        for name in ("grid", "deterministic", "elastic", "refresh", "paranoid")
    }
    # Each rank may use another GPU.
    del facts["--device"]
    # All ranks must agree whether there is such a file, as writing it is collective. Only the first uses it.
    facts |= {
        f"--{name}": "none" if file is None else "one"
        for name, file in {"checkpoint": checkpoint, "metrics": metrics, "plot": plot}.items()
    }

    def work() -> int:
        agreed, saved = connected.broadcast(prepare(connected, facts, read))
        agreed = replace(agreed, device=device)
        return Run(agreed, distribution, connected, files, quiet=quiet, json=json).complete(saved, begun)

    return together(connected, distribution.elastic, work)


def _with_checkpoint(
    context: typer.Context, config: "TrainConfig", checkpoint: Path | None, resume: bool
) -> "tuple[TrainConfig, Checkpoint | None]":
    """The configuration of the run, and the checkpoint that it resumes, if it does."""
    from nnkit.train.checkpoints import FILE_NAME, load_checkpoint

    if resume and checkpoint is not None:
        saved = load_checkpoint(checkpoint)
        return _resumed_config(context, config, saved.config), saved
    if checkpoint is not None and (checkpoint / FILE_NAME).exists():
        raise UsageError(
            f"--checkpoint {checkpoint} holds a checkpoint already: "
            "add --resume to go on from it, or give another directory"
        )
    return config, None


def _resumed_config(context: typer.Context, given: "TrainConfig", saved: "TrainConfig") -> "TrainConfig":
    """The checkpoint's configuration, changed by the options on the command line.

    Raises UsageError for an option that a resumed run cannot change.
    """
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
                f"{option} {_in_words(named[field])}: the checkpoint was made with "
                f"{_in_words(getattr(saved, field))}, "
                f"and a resumed run cannot change it: leave {option} out"
            )
    return replace(saved, **named)


def _in_words(value: Any) -> str:
    """A value as it is written on the command line: 300,100."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
