"""nnkit: neural networks trained on CUDA kernels and distribution strategies that you write yourself.

The map of the house, from the street door down; each storey imports only what lies below it:

    cli/          the command `nnkit`, one file a command
    plan/         which strategy, which grid, predicted for a machine that need not be here
    scaling/      steps timed over strategies, ranks and widths
    train/        the step, the loop, checkpoints, metrics, progress, plots
    verify/       is a difference round-off or a bug? bounds and verdicts
    nn/           the network and its initial parameters, knowing no device
    comm/         transports: how bytes move between ranks
    cost/         what a step takes, predicted: work, sums, overlap; fits to measurements
    plugins.py    finds backends through entry points, reports the broken ones
    device/       arrays, kernels and operations: cpu, virtual (CUDA kernels on the CPU), cuda; NVRTC
    data/         IDX files, MNIST (shipped), splits
    hookspecs.py  the two hooks a backend answers to
    contracts/    what a plugin sees: Array, Device, GemmBackend, CommBackend, Communicator, Transport
    reference.py  every operation as a NumPy function; in float64 it is the oracle of the tests
    vm/           the PTX machine: kernels as vectors of lanes, compiled by LLVM, every access checked
    ptx/          PTX text to records: parsing, inlining, control flow

The names below are loaded when first used, so that `import nnkit` costs next to nothing.
"""

from typing import TYPE_CHECKING, Any

from nnkit.version import __version__

if TYPE_CHECKING:
    from nnkit.data import load_dataset as load_dataset
    from nnkit.device import open_device as open_device
    from nnkit.errors import CompileError as CompileError
    from nnkit.errors import DeviceError as DeviceError
    from nnkit.errors import DeviceMemoryError as DeviceMemoryError
    from nnkit.errors import KernelError as KernelError
    from nnkit.errors import LaunchError as LaunchError
    from nnkit.errors import NnkitError as NnkitError
    from nnkit.hookspecs import hookimpl as hookimpl
    from nnkit.nn.network import Network as Network
    from nnkit.plugins import Registry as Registry
    from nnkit.train.config import TrainConfig as TrainConfig

_PUBLIC = {
    "CompileError": "nnkit.errors",
    "DeviceError": "nnkit.errors",
    "DeviceMemoryError": "nnkit.errors",
    "KernelError": "nnkit.errors",
    "LaunchError": "nnkit.errors",
    "Network": "nnkit.nn.network",
    "NnkitError": "nnkit.errors",
    "Registry": "nnkit.plugins",
    "TrainConfig": "nnkit.train.config",
    "hookimpl": "nnkit.hookspecs",
    "load_dataset": "nnkit.data",
    "open_device": "nnkit.device",
}

__all__ = [*sorted(_PUBLIC), "__version__"]  # noqa: PLE0604  the names are resolved by __getattr__


def __getattr__(name: str) -> Any:
    """Import a public name where it lives, on first use (PEP 562)."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'nnkit' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
