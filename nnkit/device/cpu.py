"""The device `cpu`: NumPy arrays, and the NumPy operations of `nnkit.reference` run without temporaries."""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

from nnkit import reference
from nnkit.contracts import Module, SupportsDlpack
from nnkit.device.arrays import dlpack
from nnkit.device.arrays.inputs import array_type, host_values
from nnkit.device.host.array import CpuArray
from nnkit.device.host.streams import HostEvent, HostStream
from nnkit.errors import DeviceError, UsageError


class CpuOperations:
    """`nnkit.contracts.Operations` on CpuArrays. Work buffers are made once for each shape, then kept."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[tuple[int, ...], np.dtype[Any]], npt.NDArray[Any]] = {}
        self._columns: dict[tuple[tuple[int, ...], np.dtype[Any]], reference.ColumnWork] = {}

    def gather_images(self, images: CpuArray, index: npt.NDArray[np.intp], out: CpuArray) -> None:
        """Write rows `index` to `out`, scaled."""
        work = self._buffer(out.host.shape, images.host.dtype)
        reference.gather_images(images.host, index, out.host, work)

    def gather_labels(self, labels: CpuArray, index: npt.NDArray[np.intp], out: CpuArray) -> None:
        """Write entries `index` to `out`."""
        labels.host.take(index, out=out.host, mode="clip")

    def bias_activation(self, z: CpuArray, bias: CpuArray, activation: str | None) -> None:
        """z <- activation(z + bias)."""
        reference.bias_activation(z.host, bias.host, activation, out=z.host)

    def activation_backward(self, delta: CpuArray, a: CpuArray, activation: str) -> None:
        """delta <- delta * activation'."""
        work = self._buffer(a.host.shape, a.host.dtype)
        reference.activation_backward(delta.host, a.host, activation, out=delta.host, work=work)

    def softmax_cross_entropy(
        self, logits: CpuArray, labels: CpuArray, losses: CpuArray, divisor: int
    ) -> None:
        """losses <- the loss of each sample; logits <- its gradient."""
        key = (logits.host.shape, logits.host.dtype)
        work = self._columns.get(key)
        if work is None:
            work = self._columns[key] = reference.ColumnWork(logits.host)
        reference.softmax_cross_entropy_columns(logits.host, labels.host, losses.host, divisor, work)

    def softmax(self, logits: CpuArray) -> None:
        """logits <- softmax(logits)."""
        reference.softmax(logits.host, out=logits.host)

    def count_correct(self, logits: CpuArray, labels: CpuArray) -> int:
        """How many rows are largest at their label."""
        return reference.count_correct(logits.host, labels.host)

    def column_sum(self, x: CpuArray, out: CpuArray) -> None:
        """out <- the sum over rows."""
        reference.column_sum(x.host, out=out.host)

    def total(self, x: CpuArray) -> float:
        """The sum of all elements in float64."""
        return float(np.add.reduce(x.host, axis=None, dtype=np.float64))

    def sgd_update(self, parameter: CpuArray, gradient: CpuArray, lr: float, decay: float) -> None:
        """parameter <- (1 - lr * decay) * parameter - lr * gradient."""
        reference.sgd_update(parameter.host, gradient.host, lr, decay)

    def _buffer(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        key = (shape, dtype)
        buffer = self._buffers.get(key)
        if buffer is None:
            buffer = self._buffers[key] = np.empty(shape, dtype)
        return buffer


class CpuDevice:
    """`nnkit.contracts.Device` in host memory."""

    name = "cpu"

    def __init__(self) -> None:
        self.operations = CpuOperations()

    def empty(self, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> CpuArray:
        """An array of unspecified content; raises DeviceError when the host has no room."""
        return self._made(np.empty, shape, dtype)

    def zeros(self, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> CpuArray:
        """An array of zeros."""
        return self._made(np.zeros, shape, dtype)

    def upload(self, host: npt.ArrayLike) -> CpuArray:
        """A row-major copy, in the machine's byte order."""
        return CpuArray(np.array(host_values(host), order="C"))

    def _made(self, make: Callable[..., npt.NDArray[Any]], shape: Any, dtype: Any) -> CpuArray:
        lengths, element = array_type(shape, dtype)
        try:
            return CpuArray(make(lengths, element))
        except (MemoryError, ValueError):
            # ValueError: more than an address can tell.
            raise DeviceError(
                f"no memory for an array of shape {lengths} {element}: use smaller ones"
            ) from None

    def from_dlpack(self, lender: SupportsDlpack) -> CpuArray:
        """An array on memory that another library lends, shared where it is row-major."""
        return CpuArray(dlpack.host_array(lender))

    def compile(
        self,
        source: str | PathLike[str],
        name: str = "kernel.cu",
        options: Sequence[str] = (),
        arch: str | None = None,
    ) -> Module:
        """Raises UsageError: this device runs no kernels."""
        raise _no_kernels()

    def load_ptx(self, ptx: str | bytes | PathLike[str]) -> Module:
        """Raises UsageError: this device runs no kernels."""
        raise _no_kernels()

    def stream(self) -> HostStream:
        """A stream in which everything is already done."""
        return HostStream()

    def event(self) -> HostEvent:
        """A new event, not yet recorded."""
        return HostEvent()

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def close(self) -> None:
        """Forget the work buffers."""
        self.operations = CpuOperations()

    def __repr__(self) -> str:
        return "CpuDevice()"


def _no_kernels() -> UsageError:
    return UsageError('the device cpu runs no kernels; open_device("virtual") runs them without a GPU')
