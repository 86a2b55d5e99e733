"""nnkit: neural networks trained on CUDA kernels and distribution strategies that you write yourself.

The package in layers. A module imports only from layers below its own:

    cli/            the command `nnkit`: one file a command
    plan/           which strategy and which grid of ranks suit a machine, predicted
    scaling/        training steps timed over strategies, ranks and layer widths
    train/          the step and the loop, checkpoints, metrics, recovery from lost ranks
    verify/         GEMM backends checked and timed: rounding error bounds, verdicts
    nn/             the network: initial parameters, forward and backward pass
    comm/           transports: how bytes move between ranks, how ranks start and end
    cost/           the cost model of a training step, and its fit to measurements
    plugins.py      finds backends through entry points, reports the broken ones
    device/         arrays, operations and kernels on `cpu`, `virtual` and `cuda`
    data/           IDX files, MNIST, pictures
    hookspecs.py    the hooks that a plugin answers to
    contracts/      the protocols that a plugin sees: Array, Device, GemmBackend, Strategy
    reference.py    every operation in NumPy: in float64 the oracle of the tests
    vm/             the PTX machine: CUDA kernels on the CPU, compiled by LLVM, every access checked
    errors.py       the errors that nnkit raises: one line that says what, where, what to do
    files.py        reading files that a user names
    version.py      the version
    ptx/            PTX text to records

Where to begin: `Trainer.step` in train/trainer.py is one step of training. It runs the `Network` of
nn/network.py, which multiplies by a GEMM backend (such as backends/gemm_numpy.py) and sums over ranks by a
strategy (backends/grid.py). docs/architecture.md has pictures of these layers, of the PTX machine and of the
devices. The names below are imported when first used, so that `import nnkit` is fast.
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
