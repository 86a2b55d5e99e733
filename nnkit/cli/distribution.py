"""The options that say how ranks are started and what they do, and starting them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nnkit.comm.joining import in_turn, open_transport, usual_transport
from nnkit.comm.world import world_from_environment
from nnkit.errors import UsageError

if TYPE_CHECKING:
    from nnkit.contracts import Transport


@dataclass(frozen=True)
class Distribution:
    """The options of `nnkit train` that say how ranks are started and what they do besides training."""

    ranks: int | None = None
    hostfile: Path | None = None
    grid: str | None = None
    deterministic: bool = False
    elastic: bool = False
    refresh: int = 1
    paranoid: int = 0
    transport: str = "auto"

    def __post_init__(self) -> None:
        if self.ranks is not None and self.ranks < 1:
            raise UsageError(f"--ranks {self.ranks}: give 1 or more")
        if self.hostfile is not None and self.ranks is None:
            raise UsageError("--hostfile is for ranks that nnkit starts: add --ranks N")
        if self.refresh < 1:
            raise UsageError(f"--refresh {self.refresh}: give 1 or more steps between two copies")
        if self.refresh > 1 and not self.elastic:
            raise UsageError(f"--refresh {self.refresh}: copies are made with --elastic alone: add it")
        if self.paranoid < 0:
            raise UsageError(f"--paranoid {self.paranoid}: give the steps between two comparisons")
        self.shape()

    def shape(self) -> tuple[int, int] | None:
        """`--grid 4x2` as (4, 2)."""
        if self.grid is None:
            return None
        try:
            over_batch, over_network = (int(part) for part in self.grid.lower().split("x"))
        except ValueError:
            over_batch = over_network = 0
        if over_batch < 1 or over_network < 1:
            raise UsageError(
                f"--grid {self.grid}: give the parts of the batch and of the network, for example 4x2"
            )
        if self.ranks is not None and over_batch * over_network != self.ranks:
            raise UsageError(
                f"--grid {self.grid} makes {over_batch * over_network} ranks, but --ranks is {self.ranks}: "
                "give two factors of that"
            )
        return over_batch, over_network


def start(distribution: Distribution, comm: str, checkpoint: Path | None, arguments: list[str]) -> int | None:
    """Start the ranks that were asked for and wait for them; None in a process that is a rank itself."""
    from nnkit.comm.launch import launch

    if distribution.ranks is None:
        if distribution.elastic and world_from_environment() is None:
            raise UsageError("--elastic is for several ranks: add --ranks N")
        return None
    if world_from_environment() is not None:
        raise UsageError("--ranks inside mpirun: the ranks are started already, so leave --ranks out")
    if distribution.ranks == 1 and distribution.hostfile is None:
        return None
    if comm == "none":
        raise UsageError("--ranks needs a way to share the work: add --comm data, model or hybrid")
    return launch(
        distribution.ranks,
        _without_start(arguments),
        hostfile=distribution.hostfile,
        elastic=distribution.elastic,
        rescue=lambda: _rescue(checkpoint),
    )


def join(distribution: Distribution) -> "Transport":
    """This process as a rank: what moves bytes between it and the others."""
    from nnkit.plugins import Registry

    with in_turn():
        chosen = usual_transport() if distribution.transport == "auto" else distribution.transport
        backend = Registry.discover().transport(chosen)
    return open_transport(backend, deterministic=distribution.deterministic, elastic=distribution.elastic)


def _rescue(checkpoint: Path | None) -> str:
    """How to go on after ranks that were killed, if that can be."""
    from nnkit.train.checkpoints import FILE_NAME

    if checkpoint is None or not (checkpoint / FILE_NAME).exists():
        return ""
    return f"{checkpoint} keeps the last checkpoint, so go on with --checkpoint {checkpoint} --resume"


def _without_start(arguments: list[str]) -> list[str]:
    """The arguments of a rank: those of the command without --ranks and --hostfile."""
    found, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in ("--ranks", "--hostfile"):
            skip = True
        elif not argument.startswith(("--ranks=", "--hostfile=")):
            found.append(argument)
    return found


def check_outside_mpirun(command: str) -> None:
    """Refuse a command that starts ranks itself where that has been done; said once, by the first rank."""
    if world_from_environment() is None:
        return
    with in_turn():
        raise UsageError(f"nnkit {command} inside mpirun: it starts ranks itself, so run it without mpirun")
