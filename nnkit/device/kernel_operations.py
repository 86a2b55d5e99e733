"""The operations of a training step as kernels, for the devices that run them: `virtual` and `cuda`.

Each kernel stands in a file of cuda_src/ that bears its name and explains it. A file is compiled when an
operation first needs it, once for each element type and activation.
"""

from pathlib import Path
from typing import Any, Generic

import numpy as np
import numpy.typing as npt

from nnkit.contracts import ACTIVATIONS, C_NAMES, Array, Device, Kernel
from nnkit.contracts.devices import ArrayT
from nnkit.device.source.headers import own_folder

LINE = 256
"""Threads of a block where the shape of an array does not matter."""

WIDTHS = (16, 64, LINE)
"""Columns of a block of LINE threads that covers a matrix: the more, the longer the rows."""

SIDE = 16
"""Height and width of a block that works on columns (x) and rows (y)."""

ROWS_PER_THREAD = 4
"""How far a thread walks down a matrix: enough to pay for its start."""

LARGEST_Y = 65535
"""The most blocks along y; the kernels go round again where that is not enough."""

PARTS = 64
"""The most parts of a sum that are left for a second step."""

PART_ROWS = 1024
"""Fewer rows than this are not worth another part of a column sum."""


class KernelOperations(Generic[ArrayT]):
    """`nnkit.contracts.Operations` on the arrays of a device that runs kernels.

    Raises ValueError for shapes that do not fit one another: a kernel would read what lies behind the array.
    An empty array is no work, and nothing is launched.
    """

    def __init__(self, device: Device[ArrayT]):
        self._device = device
        self._kernels: dict[tuple[str, str, str | None], Kernel] = {}
        self._index: ArrayT | None = None
        self._buffers: dict[tuple[tuple[int, ...], np.dtype[Any]], ArrayT] = {}

    def gather_images(self, images: ArrayT, index: npt.NDArray[np.intp], out: ArrayT) -> None:
        """Write rows `index` of the bytes `images` (N, pixels) to `out` (B, pixels), scaled to [0, 1]."""
        rows, pixels = out.shape
        _require(len(index) == rows and images.shape[1:] == (pixels,), images, out)
        if rows and pixels:
            self._kernel("gather_images", out).launch(
                *_cover(rows, pixels),
                (np.int32(rows), np.int32(pixels), images, self._on_device(index), out),
            )

    def gather_labels(self, labels: ArrayT, index: npt.NDArray[np.intp], out: ArrayT) -> None:
        """Write entries `index` of `labels` (N,) to `out` (B,)."""
        (count,) = out.shape
        _require(len(index) == count, labels, out)
        if count:
            arguments = (np.int64(count), labels, self._on_device(index), out)
            self._kernel("gather_labels").launch(_blocks(count), LINE, arguments)

    def bias_activation(self, z: ArrayT, bias: ArrayT, activation: str | None) -> None:
        """z <- activation(z + bias)."""
        rows, columns = z.shape
        _require(bias.shape == (columns,), z, bias)
        if rows and columns:
            self._kernel("bias_activation", z, activation).launch(
                *_cover(rows, columns), (np.int32(rows), np.int32(columns), z, bias)
            )

    def activation_backward(self, delta: ArrayT, a: ArrayT, activation: str) -> None:
        """delta <- delta * activation'."""
        _require(delta.shape == a.shape, delta, a)
        if count := _size(a):
            self._kernel("activation_backward", a, activation).launch(
                _blocks(count), LINE, (np.int64(count), delta, a)
            )

    def softmax_cross_entropy(self, logits: ArrayT, labels: ArrayT, losses: ArrayT, divisor: int) -> None:
        """losses <- the loss of each sample; logits <- its gradient."""
        rows, classes = logits.shape
        _require(labels.shape == losses.shape == (rows,), logits, labels, losses)
        if rows and classes:
            scale = logits.dtype.type(1 / divisor)
            self._kernel("softmax_cross_entropy", logits).launch(
                _blocks(rows), LINE, (np.int64(rows), np.int32(classes), logits, labels, losses, scale)
            )

    def softmax(self, logits: ArrayT) -> None:
        """logits <- softmax(logits)."""
        rows, classes = logits.shape
        if rows and classes:
            self._kernel("softmax", logits).launch(
                _blocks(rows), LINE, (np.int64(rows), np.int32(classes), logits)
            )

    def count_correct(self, logits: ArrayT, labels: ArrayT) -> int:
        """How many rows are largest at their label."""
        rows, classes = logits.shape
        _require(labels.shape == (rows,), logits, labels)
        if not (rows and classes):
            return 0
        blocks = min(_blocks(rows), PARTS)
        parts = self._buffer((blocks,), np.dtype(np.int64))
        self._kernel("count_correct", logits).launch(
            blocks, LINE, (np.int64(rows), np.int32(classes), logits, labels, parts)
        )
        return int(parts.download().sum())

    def column_sum(self, x: ArrayT, out: ArrayT) -> None:
        """out <- the sum over rows."""
        rows, columns = x.shape
        _require(out.shape == (columns,), x, out)
        if not columns:
            return
        kernel = self._kernel("column_sum", x)
        across = -(-columns // SIDE)
        part_rows = max(PART_ROWS, -(-rows // PARTS))
        parts = -(-rows // part_rows)
        if parts > 1:
            # A tall matrix in parts, then the parts, which are a matrix of their own.
            part_sums = self._buffer((parts, columns), x.dtype)
            sizes = (np.int32(rows), np.int32(columns), np.int32(part_rows))
            kernel.launch((across, parts), (SIDE, SIDE), (*sizes, x, part_sums))
            x, rows = part_sums, parts
        sizes = (np.int32(rows), np.int32(columns), np.int32(part_rows))
        kernel.launch((across, 1), (SIDE, SIDE), (*sizes, x, out))

    def total(self, x: ArrayT) -> float:
        """The sum of all elements in float64."""
        count = _size(x)
        if not count:
            return 0.0
        blocks = min(_blocks(count), PARTS)
        parts = self._buffer((blocks,), np.dtype(np.float64))
        self._kernel("total", x).launch(blocks, LINE, (np.int64(count), x, parts))
        return float(parts.download().sum())

    def sgd_update(self, parameter: ArrayT, gradient: ArrayT, lr: float, decay: float) -> None:
        """parameter <- (1 - lr * decay) * parameter - lr * gradient."""
        _require(parameter.shape == gradient.shape, parameter, gradient)
        if count := _size(parameter):
            real = parameter.dtype.type
            arguments = (np.int64(count), parameter, gradient, real(1.0 - lr * decay), real(lr))
            self._kernel("sgd_update", parameter).launch(_blocks(count), LINE, arguments)

    def _kernel(self, name: str, array: ArrayT | None = None, activation: str | None = None) -> Kernel:
        """The kernel `name`, for the element type of `array` if it depends on one."""
        key = (name, array.dtype.name if array is not None else "", activation)
        kernel = self._kernels.get(key)
        if kernel is None:
            kernel = self._kernels[key] = self._compile(*key)
        return kernel

    def _compile(self, name: str, dtype: str, activation: str | None) -> Kernel:
        options = []
        if dtype:
            if dtype not in C_NAMES:
                raise ValueError(f"{name} has no kernel for {dtype}: give one of {', '.join(C_NAMES)}")
            options.append(f"-DREAL={C_NAMES[dtype]}")
        if activation:
            if activation not in ACTIVATIONS:
                raise ValueError(f"unknown activation {activation!r}")
            options.append(f"-DACTIVATION={activation.upper()}")
        return self._device.compile(Path(own_folder(), f"{name}.cu"), options=options)[name]

    def _on_device(self, index: npt.NDArray[np.intp]) -> ArrayT:
        """A copy of a host index, in a buffer that the next call overwrites."""
        if self._index is None or len(index) > self._index.shape[0]:
            self._index = self._device.empty((len(index),), np.intp)
        view = self._index.rows(0, len(index))
        view.write(np.ascontiguousarray(index, np.intp))
        return view

    def _buffer(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> ArrayT:
        key = (shape, dtype)
        buffer = self._buffers.get(key)
        if buffer is None:
            buffer = self._buffers[key] = self._device.empty(shape, dtype)
        return buffer


def _require(fits: bool, *arrays: Array) -> None:
    if not fits:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise ValueError(f"the shapes {shapes} do not fit one another")


def _size(array: Array) -> int:
    size = 1
    for length in array.shape:
        size *= length
    return size


def _blocks(count: int) -> int:
    """Blocks of LINE threads, one thread for each of `count` elements."""
    return -(-count // LINE)


def _cover(rows: int, columns: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Grid and block for a matrix, each thread taking about ROWS_PER_THREAD rows of one column."""
    x = next((width for width in WIDTHS if columns <= 2 * width), LINE)
    y = LINE // x
    return (-(-columns // x), min(-(-rows // (y * ROWS_PER_THREAD)), LARGEST_Y)), (x, y)
