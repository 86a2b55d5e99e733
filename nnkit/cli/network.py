"""Loads a trained network onto a device, for `evaluate` and `predict`."""

from nnkit.comm.single import SingleTransport
from nnkit.contracts import Task
from nnkit.device import open_device_for
from nnkit.errors import UsageError
from nnkit.nn.network import Network
from nnkit.plugins import Registry, check_serves
from nnkit.train.checkpoints import Checkpoint
from nnkit.train.evaluation import EVALUATION_BATCH


def open_network(saved: Checkpoint, pixels: int, backend: str, device: str) -> Network:
    """The checkpoint's whole network on a device. Raises UsageError if images have another size."""
    if saved.sizes[0] != pixels:
        raise UsageError(
            f"the checkpoint is for images of {saved.sizes[0]} pixels, not {pixels}: give other --data"
        )
    registry = Registry.discover()
    gemm = registry.gemm(backend)
    opened, _ = open_device_for(gemm.devices, device)
    check_serves(gemm, opened.name, saved.parameters[0][0].dtype.name)
    strategy = registry.comm("none").strategy(SingleTransport(), Task(saved.sizes, EVALUATION_BATCH))
    return Network(saved.parameters, saved.config.activation, opened, gemm, strategy, EVALUATION_BATCH)
