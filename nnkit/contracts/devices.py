"""Arrays, the operations of a training step, kernels, devices."""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

ACTIVATIONS = ("sigmoid", "tanh", "relu")
"""The activations of hidden layers; a backend that fuses an epilogue names some of these."""


class Array(Protocol):
    """An array in a device's memory, row-major."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of every axis."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of an element."""

    def rows(self, start: int, stop: int) -> Self:
        """A view of rows start to stop (the first axis); shares memory."""

    def download(self) -> npt.NDArray[Any]:
        """A copy in host memory."""

    def write(self, host: npt.ArrayLike) -> None:
        """Overwrite the whole array with host values of the same shape and dtype; a list takes the dtype."""

    def reshape(self, shape: int | tuple[int, ...]) -> Self:
        """A view with another shape and as many elements, one length may be -1; shares memory."""

    def view(self, dtype: npt.DTypeLike) -> Self:
        """The same bytes as elements of another type, the last axis longer or shorter; shares memory."""

    def __len__(self) -> int:
        """The length of the first axis."""

    def __getitem__(self, key: Any) -> Any:
        """Elements as NumPy indexes them, copied to the host, read-only: for looking. `rows` is a view."""

    def copy(self) -> Self:
        """A new array with the same content on the same device."""


class DeviceArray(Array, Protocol):
    """An array that a kernel can take as a pointer: those of the devices `virtual` and `cuda`."""

    @property
    def device(self) -> "Device[Any]":
        """The device that holds it; `array.device.compile(...)` is how a backend gets its kernels."""

    @property
    def address(self) -> int:
        """The device address of the first element: what a kernel's pointer parameter receives."""


class HostArray(Array, Protocol):
    """An array whose memory the host can read and write: those of the devices `cpu` and `virtual`."""

    @property
    def host(self) -> npt.NDArray[Any]:
        """The memory itself as a NumPy array, not a copy."""


ArrayT = TypeVar("ArrayT", bound=Array)
"""The arrays of one device, which never meets another's."""

ArrayT_contra = TypeVar("ArrayT_contra", bound=Array, contravariant=True)
"""The arrays that something takes."""


class SupportsDlpack(Protocol):
    """What lends its memory through DLPack: arrays of NumPy, torch, JAX, CuPy and nnkit's own."""

    @property
    def __dlpack__(self) -> Callable[..., Any]:
        """Makes a capsule; takes the consumer's `stream` and, from DLPack 1.0 on, `max_version`."""

    def __dlpack_device__(self) -> tuple[int, int]:
        """The kind of device (1 the host, 2 CUDA) and its number."""


class Operations(Protocol[ArrayT_contra]):
    """Everything of a training step besides the matrix product. B is the batch, all in place or into `out`.

    The mathematics stands in `nnkit.reference`, which is what these are tested against.
    """

    def gather_images(self, images: ArrayT_contra, index: npt.NDArray[np.intp], out: ArrayT_contra) -> None:
        """Write rows `index` of the bytes `images` (N, pixels) to `out` (B, pixels), scaled to [0, 1]."""

    def gather_labels(self, labels: ArrayT_contra, index: npt.NDArray[np.intp], out: ArrayT_contra) -> None:
        """Write entries `index` of `labels` (N,) to `out` (B,)."""

    def bias_activation(self, z: ArrayT_contra, bias: ArrayT_contra, activation: str | None) -> None:
        """Overwrite z (B, n) with activation(z + bias); None adds the bias alone."""

    def activation_backward(self, delta: ArrayT_contra, a: ArrayT_contra, activation: str) -> None:
        """Multiply delta (B, n) by the activation's derivative, given the activation's output a (B, n)."""

    def softmax_cross_entropy(
        self, logits: ArrayT_contra, labels: ArrayT_contra, losses: ArrayT_contra, divisor: int
    ) -> None:
        """Write each sample's loss to `losses` (B,) and overwrite `logits` (B, classes) with the gradient.

        The gradient is (softmax - one-hot) / divisor: the divisor is the size of the whole batch over all
        ranks, so that ranks simply sum.
        """

    def softmax(self, logits: ArrayT_contra) -> None:
        """Overwrite each row of `logits` (B, classes) with its softmax."""

    def count_correct(self, logits: ArrayT_contra, labels: ArrayT_contra) -> int:
        """How many rows of `logits` (B, classes) are largest at their label."""

    def column_sum(self, x: ArrayT_contra, out: ArrayT_contra) -> None:
        """Write the sum over the rows of x (B, n) to `out` (n,)."""

    def total(self, x: ArrayT_contra) -> float:
        """The sum of all elements, accumulated in float64; waits for the device."""

    def sgd_update(self, parameter: ArrayT_contra, gradient: ArrayT_contra, lr: float, decay: float) -> None:
        """Overwrite parameter with (1 - lr * decay) * parameter - lr * gradient; may destroy gradient."""


Dimensions = int | tuple[int, ...] | npt.NDArray[np.integer[Any]]
"""A grid's or a block's extent in one to three dimensions, x first; missing ones are 1."""


class Event(Protocol):
    """A mark in a stream, with the time at which the stream reached it."""

    def record(self, stream: "Stream | None" = None) -> None:
        """Place the mark behind everything launched so far; None is the default stream."""

    def synchronize(self) -> None:
        """Wait until the mark is reached."""

    def elapsed_ms(self, since: "Event") -> float:
        """Milliseconds from the event `since` to this one; waits for both."""


class Stream(Protocol):
    """A queue of launches that run in order."""

    def synchronize(self) -> None:
        """Wait until everything launched in it is done; raises what a kernel did wrong."""

    def close(self) -> None:
        """Wait and give it back; a second call does nothing."""


class Kernel(Protocol):
    """A `__global__` function, ready to launch."""

    @property
    def name(self) -> str:
        """Its name in the PTX."""

    def launch(
        self,
        grid: Dimensions,
        block: Dimensions,
        args: Sequence[Any] = (),
        shared_bytes: int = 0,
        stream: Stream | None = None,
    ) -> None:
        """Run it over grid x block threads.

        `args` holds one value for each parameter: for a pointer an array of this device, or another library's
        in the device's memory, or None; for a number a NumPy scalar of the parameter's size and kind, or a
        Python int or float that fits; for a struct passed by value a NumPy record, a ctypes structure or
        bytes. Raises LaunchError for a wrong argument or extent, also for an array that the kernel certainly
        reads as something else, and DeviceMemoryError for a wrong access (on `cuda`, at the next
        synchronisation).
        """


class Module(Protocol):
    """Compiled CUDA source."""

    @property
    def kernels(self) -> tuple[str, ...]:
        """What its kernels are called in the source, with their parameters; extern "C" ones without."""

    def __getitem__(self, name: str) -> Kernel:
        """The kernel of that name, as "add", "ns::add", "add(float*)" or its name in the PTX.

        A template is named with its arguments, "fill<float, 3>": it is compiled when first asked for. Raises
        UsageError for a name that is not there, with a near match, or that several kernels have, and
        CompileError, with the line, for a kernel that the device cannot run.
        """

    @property
    def variables(self) -> Mapping[str, DeviceArray]:
        """Its `__constant__`, `__device__` and `__managed__` variables as arrays, by the names of the source.

        Each shares the variable's memory and keeps the module alive. Shape and dtype are those of the
        declaration; where the source does not say them plainly they are bytes, for `view`.
        """


class Device(Protocol[ArrayT]):
    """Holds arrays, compiles and launches kernels, and offers the operations of a training step.

    `Device[Array]` is one whose kind nobody asks for: whoever has it gives it its own arrays alone.

    Not safe for use from several threads at once.
    """

    @property
    def name(self) -> str:
        """The device's name: "cpu", "virtual" or "cuda"."""

    @property
    def operations(self) -> Operations[ArrayT]:
        """The operations of a training step on this device's arrays."""

    def empty(self, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> ArrayT:
        """An array of unspecified content."""

    def zeros(self, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> ArrayT:
        """An array of zeros."""

    def upload(self, host: npt.ArrayLike) -> ArrayT:
        """A row-major copy of a host array on the device."""

    def from_dlpack(self, lender: SupportsDlpack) -> ArrayT:
        """An array on the memory of another library's (NumPy, torch, JAX, CuPy): shared, not copied.

        Copied is what lies elsewhere than the device's memory or is not row-major. Memory that its owner lets
        nobody write stays so. Raises UsageError for what cannot be shared or copied.
        """

    def compile(
        self,
        source: str | PathLike[str],
        name: str = "kernel.cu",
        options: Sequence[str] = (),
        arch: str | None = None,
    ) -> Module:
        """Compile CUDA C++ with NVRTC, once: the result is cached on disk.

        `source` is text or a path; `name` is what messages call a text. `options` are NVRTC's own, such as
        "-DTILE=32"; `arch` is for example "compute_90" (default: what suits the device). Raises CompileError
        with the compiler's log, and UsageError on a device that runs no kernels.
        """

    def load_ptx(self, ptx: str | bytes | PathLike[str]) -> Module:
        """Load PTX as it is, text or a path. Raises CompileError where it cannot be understood."""

    def stream(self) -> Stream:
        """A new stream."""

    def event(self) -> Event:
        """A new event, not yet recorded."""

    def synchronize(self) -> None:
        """Wait until every launch is done; raises what a kernel did wrong."""

    def close(self) -> None:
        """Give everything back; a second call does nothing."""
