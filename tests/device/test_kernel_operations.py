"""The kernels of a training step against nnkit.reference in float64.

A bound is k u |what was rounded|, for k roundings, as in test_reference. Every output stands between rows of
poison, which show whether a kernel writes outside its array.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnkit import reference
from nnkit.device.kernel_operations import PART_ROWS, KernelOperations
from nnkit.verify.bounds import unit_roundoff, within

Floats = npt.NDArray[Any]

EVAL = 8
"""Roundings granted to exp, log and tanh: four units in the last place."""

kernel_tests = settings(max_examples=30, deadline=None)
dtypes = st.sampled_from(["float32", "float64"])
seeds = st.integers(0, 2**32 - 1)
spreads = st.sampled_from([0.1, 1.0, 30.0])
# Around the edges of blocks and of what one thread does, primes, nothing at all.
rows = st.sampled_from([0, 1, 2, 15, 16, 17, 64, 65, 100, 257])
widths = st.sampled_from([1, 2, 10, 15, 16, 17, 33, 100, 257])
classes_drawn = st.sampled_from([1, 2, 10, 17])
activations = st.sampled_from(sorted(reference.ACTIVATIONS))


@pytest.fixture(scope="module")
def operations(kernel_device: Any) -> Any:
    assert isinstance(kernel_device.operations, KernelOperations)
    return kernel_device.operations


class Guarded:
    """A copy of a host array on the device, between poison."""

    def __init__(self, device: Any, host: npt.NDArray[Any]):
        poison = np.nan if host.dtype.kind == "f" else 77
        self._rows = len(host)
        whole = np.full((len(host) + 2, *host.shape[1:]), poison, host.dtype)
        whole[1:-1] = host
        self._whole = device.upload(whole)
        self._before = whole
        self.array = self._whole.rows(1, 1 + len(host))

    def result(self) -> npt.NDArray[Any]:
        """What is in the array now."""
        after: npt.NDArray[Any] = self._whole.download()
        for edge in (0, -1):
            assert np.array_equal(after[edge], self._before[edge], equal_nan=after.dtype.kind == "f")
        return after[1:-1]


def normal(seed: int, shape: tuple[int, ...], dtype: str, spread: float = 1.0) -> Floats:
    return (spread * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def draw_labels(seed: int, batch: int, classes: int) -> npt.NDArray[np.intp]:
    return np.random.default_rng((seed, 1)).integers(0, classes, batch).astype(np.intp)


def assert_rounded(got: Floats, expected: Floats, roundings: Any, magnitude: Any) -> None:
    """|got - expected| <= roundings u magnitude, with u of both precisions; underflow is allowed for."""
    u = unit_roundoff(got.dtype) + unit_roundoff(np.float64)
    bound = 1.001 * roundings * u * np.abs(magnitude) + float(np.finfo(got.dtype).tiny)
    assert got.shape == expected.shape
    assert within(np.abs(got.astype(np.float64) - expected), bound)


@kernel_tests
@given(dtypes, seeds, rows, widths)
def test_gather_images(
    kernel_device: Any, operations: Any, dtype: str, seed: int, batch: int, pixels: int
) -> None:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (37, pixels)).astype(np.uint8)
    index = generator.integers(0, 37, batch).astype(np.intp)
    out = Guarded(kernel_device, np.full((batch, pixels), np.nan, dtype))
    operations.gather_images(kernel_device.upload(images), index, out.array)
    expected = reference.gather_images(images, index, np.empty((batch, pixels), dtype))
    assert out.result().tobytes() == expected.tobytes()


@kernel_tests
@given(seeds, rows)
def test_gather_labels(kernel_device: Any, operations: Any, seed: int, batch: int) -> None:
    labels = draw_labels(seed, 37, 10)
    index = draw_labels(seed + 1, batch, 37)
    out = Guarded(kernel_device, np.full(batch, -1, np.intp))
    # Every other entry of a longer index: it need not be contiguous.
    operations.gather_labels(kernel_device.upload(labels), np.repeat(index, 2)[::2], out.array)
    assert np.array_equal(out.result(), labels[index])


@kernel_tests
@given(dtypes, seeds, rows, widths, spreads, st.none() | activations)
def test_bias_activation(
    kernel_device: Any,
    operations: Any,
    dtype: str,
    seed: int,
    batch: int,
    width: int,
    spread: float,
    activation: str | None,
) -> None:
    z, bias = normal(seed, (batch, width), dtype, spread), normal(seed + 1, (width,), dtype)
    on_device = Guarded(kernel_device, z)
    operations.bias_activation(on_device.array, kernel_device.upload(bias), activation)
    got = on_device.result()
    if activation in (None, "relu"):
        assert np.array_equal(got, reference.bias_activation(z, bias, activation))
        return
    total = z.astype(np.float64) + bias
    expected = reference.bias_activation(z.astype(np.float64), bias.astype(np.float64), activation)
    # The rounded argument moves the result by its slope; sigmoid rounds exp, a sum and a quotient.
    slope = np.abs(reference.activation_backward(np.ones_like(total), expected, str(activation)))
    assert_rounded(got, expected, 1, slope * np.abs(total) + (EVAL + 2) * np.abs(expected))


@kernel_tests
@given(dtypes, seeds, rows, widths, activations)
def test_activation_backward(
    kernel_device: Any, operations: Any, dtype: str, seed: int, batch: int, width: int, activation: str
) -> None:
    delta = normal(seed, (batch, width), dtype)
    a = reference.ACTIVATIONS[activation](normal(seed + 1, (batch, width), dtype))
    on_device = Guarded(kernel_device, delta)
    operations.activation_backward(on_device.array, kernel_device.upload(a), activation)
    wide = delta.astype(np.float64), a.astype(np.float64)
    # tanh: the square, the difference and the product are rounded; 1 is the largest of them.
    assert_rounded(on_device.result(), reference.activation_backward(*wide, activation), 4, np.abs(delta))


@kernel_tests
@given(dtypes, seeds, rows, classes_drawn, spreads)
def test_softmax_and_cross_entropy(
    kernel_device: Any, operations: Any, dtype: str, seed: int, batch: int, classes: int, spread: float
) -> None:
    logits, labels = normal(seed, (batch, classes), dtype, spread), draw_labels(seed, batch, classes)
    on_device, alone = Guarded(kernel_device, logits), Guarded(kernel_device, logits)
    losses = Guarded(kernel_device, np.full(batch, np.nan, dtype))
    divisor = 2 * batch + 1
    operations.softmax(alone.array)
    operations.softmax_cross_entropy(on_device.array, kernel_device.upload(labels), losses.array, divisor)

    wide = logits.astype(np.float64)
    probabilities = reference.softmax(wide)
    span = np.ptp(wide, axis=1)
    # Shift, exp and sum in numerator and denominator, a division; as in test_reference.
    relative = 2 * span + classes + 2 * EVAL + 2
    assert_rounded(alone.result(), probabilities, relative[:, None], probabilities)
    expected = reference.cross_entropy(wide, labels)
    # A relative error of the sum is an absolute one of its logarithm.
    assert_rounded(losses.result(), expected, 1, relative + (EVAL + 1) * expected)
    magnitude = (probabilities + np.eye(classes)[labels]) / divisor
    gradient = reference.cross_entropy_gradient(wide, labels, divisor)
    assert_rounded(on_device.result(), gradient, relative[:, None] + 4, magnitude)


@kernel_tests
@given(dtypes, seeds, st.sampled_from([0, 1, 255, 256, 257, 1000, 20_000]), classes_drawn)
def test_count_correct(
    kernel_device: Any, operations: Any, dtype: str, seed: int, batch: int, classes: int
) -> None:
    # Few distinct values, so that rows have several maxima; NaN counts as the largest, as in NumPy.
    logits = np.random.default_rng(seed).integers(0, 4, (batch, classes)).astype(dtype)
    logits[logits == 3] = np.nan
    labels = draw_labels(seed, batch, classes)
    got = operations.count_correct(kernel_device.upload(logits), kernel_device.upload(labels))
    assert got == reference.count_correct(logits, labels)


@kernel_tests
@given(dtypes, seeds, rows | st.sampled_from([PART_ROWS, PART_ROWS + 1, 70 * PART_ROWS]), widths)
def test_column_sum(
    kernel_device: Any, operations: Any, dtype: str, seed: int, batch: int, width: int
) -> None:
    width = min(width, 20_000 // max(batch, 1) + 1)
    x = normal(seed, (batch, width), dtype)
    on_device = kernel_device.upload(x)
    first, second = (Guarded(kernel_device, np.full(width, np.nan, dtype)) for _ in range(2))
    operations.column_sum(on_device, first.array)
    operations.column_sum(on_device, second.array)
    wide = x.astype(np.float64)
    assert_rounded(first.result(), reference.column_sum(wide), batch, np.abs(wide).sum(axis=0))
    assert first.result().tobytes() == second.result().tobytes()


@kernel_tests
@given(dtypes, seeds, st.sampled_from([0, 1, 255, 256, 257, 1000, 100_000]))
def test_total(kernel_device: Any, operations: Any, dtype: str, seed: int, count: int) -> None:
    x = normal(seed, (count,), dtype)
    on_device = kernel_device.upload(x)
    got = operations.total(on_device)
    wide = x.astype(np.float64)
    # Accumulated in float64, whatever the elements are; the sum beside it has as many roundings.
    assert abs(got - wide.sum()) <= 2 * count * unit_roundoff(np.float64) * np.abs(wide).sum()
    assert operations.total(on_device) == got


def test_total_keeps_what_is_not_finite(kernel_device: Any, operations: Any) -> None:
    for strange in (np.nan, np.inf, -np.inf):
        x = np.ones((30, 40), np.float32)
        x[29, 39] = strange
        assert not np.isfinite(operations.total(kernel_device.upload(x)))


@kernel_tests
@given(dtypes, seeds, rows, widths, st.sampled_from([1e-3, 3.0]), st.sampled_from([0.0, 2e-5, 0.1]))
def test_sgd_update(
    kernel_device: Any, operations: Any, dtype: str, seed: int, m: int, n: int, lr: float, decay: float
) -> None:
    parameter, gradient = normal(seed, (m, n), dtype), normal(seed + 1, (m, n), dtype)
    on_device = Guarded(kernel_device, parameter)
    operations.sgd_update(on_device.array, kernel_device.upload(gradient), lr, decay)
    kept, moved = (1 - lr * decay) * parameter.astype(np.float64), lr * gradient.astype(np.float64)
    assert_rounded(on_device.result(), kept - moved, 4, np.abs(kept) + np.abs(moved))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_saturation_and_nan(kernel_device: Any, operations: Any, dtype: str) -> None:
    z = np.array([[-1e4, -0.0, 1e4, np.nan]], dtype)
    ends = {"sigmoid": [0, 0.5, 1], "tanh": [-1, 0, 1], "relu": [0, 0, 1e4]}
    for activation, expected in ends.items():
        on_device = kernel_device.upload(z)
        operations.bias_activation(on_device, kernel_device.zeros((4,), dtype), activation)
        got = on_device.download()[0]
        assert list(got[:3]) == expected
        assert np.isnan(got[3])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_broken_row_breaks_its_loss_alone(kernel_device: Any, operations: Any, dtype: str) -> None:
    logits = np.array([[np.nan, 0, 0], [0, np.nan, 0], [0, 0, np.inf], [1e4, -1e4, 0]], dtype)
    labels = kernel_device.upload(np.zeros(4, np.intp))
    losses = kernel_device.empty((4,), dtype)
    operations.softmax_cross_entropy(kernel_device.upload(logits), labels, losses, 1)
    assert list(np.isfinite(losses.download())) == [False, False, False, True]


def test_disagreeing_shapes_are_refused(kernel_device: Any, operations: Any) -> None:
    def zeros(*shape: int) -> Any:
        return kernel_device.zeros(shape, "float32")

    with pytest.raises(ValueError, match=r"\(2, 3\), \(4,\)"):
        operations.bias_activation(zeros(2, 3), zeros(4), None)
    with pytest.raises(ValueError, match=r"\(2, 3\), \(3, 2\)"):
        operations.activation_backward(zeros(2, 3), zeros(3, 2), "relu")
    with pytest.raises(ValueError, match=r"\(2, 3\), \(2,\)"):
        operations.column_sum(zeros(2, 3), zeros(2))
    with pytest.raises(ValueError, match=r"\(2, 3\), \(3, 2\)"):
        operations.sgd_update(zeros(2, 3), zeros(3, 2), 0.1, 0.0)
    with pytest.raises(ValueError, match="gelu"):
        operations.bias_activation(zeros(2, 3), zeros(3), "gelu")
