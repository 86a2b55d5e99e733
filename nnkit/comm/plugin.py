"""The transports that connect processes: offered as a plugin offers its own.

`threads` is none of them: its ranks are threads of one process, which it starts itself.
"""

from nnkit.comm.mpi import MpiTransport, world
from nnkit.comm.single import SingleTransport
from nnkit.contracts import TransportBackend
from nnkit.hookspecs import hookimpl


class Single:
    """`--transport single`."""

    name = "single"

    def connect(self, rank: int, size: int, *, elastic: bool) -> SingleTransport:
        """Nobody to meet."""
        if size != 1:
            raise ValueError(f"--transport single is for one rank, not {size}: leave it out")
        return SingleTransport()


class Mpi:
    """`--transport mpi`."""

    name = "mpi"

    def connect(self, rank: int, size: int, *, elastic: bool) -> MpiTransport:
        """Start MPI, which knows by itself who the others are."""
        return world(elastic=elastic)


@hookimpl
def nnkit_transports() -> list[TransportBackend]:
    """Offer `single` and `mpi`."""
    return [Single(), Mpi()]
