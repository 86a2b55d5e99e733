"""A fully connected network on one rank: parameters, gradients and buffers on a device, forward and backward.

Z = X W^T + b, a hidden activation, softmax of the last layer, mean cross-entropy. Every buffer is made once,
for the largest batch; a shorter batch uses its first rows.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nnkit.contracts import ACTIVATIONS, Array, Device, FusedGemmBackend, GemmBackend, Strategy
from nnkit.errors import UsageError, unknown_name
from nnkit.nn.initialise import Parameters


@dataclass(frozen=True)
class Layer:
    """One layer's parameters and their gradients: weight (out, in), bias (out,)."""

    weight: Array
    bias: Array
    gradient: Array
    """Of weight and bias, one after the other: one sum over ranks completes both. Next two: its views."""
    weight_gradient: Array
    bias_gradient: Array


@dataclass(frozen=True)
class Buffers:
    """The arrays of one batch of B samples. Those of a short batch are views of the largest one's."""

    images: Array
    """(B, inputs), numbers from 0 to 1."""
    labels: Array
    """The right class of each sample (B,)."""
    outputs: tuple[Array, ...]
    """The output of every layer (B, out); the last holds logits, then their gradient."""
    deltas: tuple[Array, ...]
    """The gradient of every hidden layer's output (B, out)."""
    losses: Array
    """Each sample's loss (B,)."""


class Network:
    """One rank's part of a network, on a device.

    `full` are the parameters of the whole network, of which the strategy says what this rank holds.
    `max_batch` is the largest number of samples in one pass, over all ranks.
    """

    def __init__(
        self,
        full: Parameters,
        activation: str,
        device: Device[Array],
        gemm: GemmBackend[Array],
        strategy: Strategy,
        max_batch: int,
    ):
        """Raises UsageError for parameters that do not fit together, or for a wrong type of argument."""
        _check(full, activation, max_batch)
        for what, value, has in (
            ("device", device, "operations"),
            ("GEMM backend", gemm, "gemm"),
            ("strategy", strategy, "samples"),
        ):
            if not _has(value, has):
                raise UsageError(f"a network needs a {what}, and a {type(value).__name__} is none")
        self.activation = activation
        self.device = device
        self.operations = device.operations
        self.gemm = gemm
        self.strategy = strategy
        self.dtype: np.dtype[Any] = full[0][0].dtype
        self.layers = [self._upload(index, *pair) for index, pair in enumerate(full)]
        self._fused: FusedGemmBackend[Array] | None = (
            gemm if activation in getattr(gemm, "fused_activations", ()) else None  # type: ignore[assignment]
        )
        self._largest = self._allocate(max_batch)
        self._views = {max_batch: self._largest}

    def buffers(self, batch: int) -> Buffers:
        """The buffers for a batch of that size, `max_batch` or less; made once for each size."""
        if batch not in self._views:
            self._views[batch] = self._shortened(batch)
        return self._views[batch]

    def forward(self, buffers: Buffers) -> Array:
        """The logits (B, classes) of the images in the buffers; the array is the last of the outputs."""
        inputs = buffers.images
        last = len(self.layers) - 1
        for index, (layer, output) in enumerate(zip(self.layers, buffers.outputs, strict=True)):
            activation = self.activation if index < last else None
            if activation and self._fused and not self.strategy.sums_forward(index):
                self._fused.gemm_bias_activation(
                    inputs, layer.weight, output, layer.bias, activation=activation, trans_b=True
                )
            else:
                self.gemm.gemm(inputs, layer.weight, output, trans_b=True)
                self.strategy.after_forward(index, output)
                self.operations.bias_activation(output, layer.bias, activation)
            inputs = output
        return inputs

    def backward(self, buffers: Buffers, divisor: int) -> None:
        """Compute the losses and every layer's gradients from the logits of `forward`.

        `divisor` is the size of the whole batch over all ranks. The L2 penalty is part of `update`.
        Source: Goodfellow, Bengio and Courville, Deep Learning (2016), algorithm 6.4.
        """
        delta = buffers.outputs[-1]
        self.operations.softmax_cross_entropy(delta, buffers.labels, buffers.losses, divisor)
        for index in reversed(range(len(self.layers))):
            layer = self.layers[index]
            inputs = buffers.outputs[index - 1] if index else buffers.images
            self.gemm.gemm(delta, inputs, layer.weight_gradient, trans_a=True)
            self.operations.column_sum(delta, layer.bias_gradient)
            self.strategy.gradient_ready(index, layer.gradient)
            if index:
                below = buffers.deltas[index - 1]
                self.gemm.gemm(delta, layer.weight, below)
                self.strategy.after_backward(index, below)
                self.operations.activation_backward(below, inputs, self.activation)
                delta = below

    def update(self, lr: float, l2: float) -> None:
        """One step of gradient descent on this rank's parameters, biases without the L2 penalty.

        Call it when `Strategy.finish_gradients` has returned.
        """
        for layer in self.layers:
            self.operations.sgd_update(layer.weight, layer.weight_gradient, lr, l2)
            self.operations.sgd_update(layer.bias, layer.bias_gradient, lr, 0.0)

    def gradient_is_finite(self) -> bool:
        """Whether the last bias' gradient is finite. Any infinity or NaN of a forward pass ends up in it."""
        return math.isfinite(self.operations.total(self.layers[-1].bias_gradient))

    def is_finite(self) -> bool:
        """Whether every parameter is a finite number: an infinity or a NaN would be in their sum."""
        totals = (self.operations.total(part) for layer in self.layers for part in (layer.weight, layer.bias))
        return all(map(math.isfinite, totals))

    def download(self) -> Parameters:
        """Copies of this rank's parameters in host memory."""
        return [(layer.weight.download(), layer.bias.download()) for layer in self.layers]

    def _upload(self, index: int, weight: npt.NDArray[Any], bias: npt.NDArray[Any]) -> Layer:
        rows = self.strategy.rows(index, weight.shape[0])
        columns = self.strategy.columns(index, weight.shape[1])
        mine, own_bias = self.device.upload(weight[rows, columns]), self.device.upload(bias[rows])
        (count,), size = own_bias.shape, math.prod(mine.shape)
        gradient = self.device.empty((size + count,), self.dtype)
        parts = gradient.rows(0, size).reshape(mine.shape), gradient.rows(size, size + count)
        return Layer(mine, own_bias, gradient, *parts)

    def _allocate(self, batch: int) -> Buffers:
        def empty(*shape: int) -> Array:
            return self.device.empty(shape, self.dtype)

        widths = [layer.weight.shape[0] for layer in self.layers]
        return Buffers(
            images=empty(batch, self.layers[0].weight.shape[1]),
            labels=self.device.empty((batch,), np.intp),
            outputs=tuple(empty(batch, width) for width in widths),
            deltas=tuple(empty(batch, width) for width in widths[:-1]),
            losses=empty(batch),
        )

    def _shortened(self, batch: int) -> Buffers:
        whole = self._largest
        return Buffers(
            images=whole.images.rows(0, batch),
            labels=whole.labels.rows(0, batch),
            outputs=tuple(output.rows(0, batch) for output in whole.outputs),
            deltas=tuple(delta.rows(0, batch) for delta in whole.deltas),
            losses=whole.losses.rows(0, batch),
        )


def _check(full: Any, activation: Any, max_batch: Any) -> None:
    """Raise UsageError unless these are the parameters of layers that fit together."""
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise unknown_name("activation", activation, ACTIVATIONS)
    if not isinstance(max_batch, int | np.integer) or isinstance(max_batch, bool) or max_batch < 1:
        raise UsageError("max_batch: give a whole number of samples, 1 or more")
    width: int | None = None
    for layer in full if isinstance(full, list | tuple) and full else [None]:
        if not isinstance(layer, list | tuple) or not all(isinstance(part, np.ndarray) for part in layer):
            raise UsageError(
                "the parameters of a network: give a list of pairs (weight, bias) of NumPy arrays"
            )
        shapes = [part.shape for part in layer]
        if len(shapes) != 2 or len(shapes[0]) != 2 or shapes[1] != shapes[0][:1]:
            raise UsageError(f"a layer has a weight (out, in) and a bias (out,), not arrays of {shapes}")
        if width not in (None, shapes[0][1]):
            raise UsageError(
                f"a layer takes {shapes[0][1]} inputs, but the one before it has {width} outputs"
            )
        if any(part.dtype.kind != "f" or part.dtype != layer[0].dtype for part in layer):
            raise UsageError("the parameters of a network are floating-point numbers of one type")
        width = shapes[0][0]


def _has(value: Any, name: str) -> bool:
    # The object is a plugin's: its property may raise anything.
    try:
        return hasattr(value, name)
    except Exception:
        return False
