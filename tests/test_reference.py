"""Every function of nnkit.reference against an oracle of Python loops in float64.

A bound is k u |what was rounded|, for k roundings. The transcendental functions of NumPy are taken
to be within EVAL roundings of the truth. The oracle's own roundings, in float64, are allowed for as well.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnkit import reference

Floats = npt.NDArray[Any]

EVAL = 8
"""Roundings granted to exp, log and tanh: four units in the last place."""

quick = settings(max_examples=40, deadline=None)
dtypes = st.sampled_from(["float32", "float64"])
seeds = st.integers(0, 2**32 - 1)
spreads = st.sampled_from([0.1, 1.0, 30.0])
rows = st.sampled_from([1, 2, 7, 33, 100])
widths = st.sampled_from([1, 2, 5, 10, 17])
activations = st.sampled_from(["sigmoid", "tanh", "relu"])
IN_PLACE: dict[str, Callable[..., Floats]] = {**reference.ACTIVATIONS, "softmax": reference.softmax}


def normal(seed: int, shape: tuple[int, ...], dtype: str, spread: float = 1.0) -> Floats:
    return (spread * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def draw_labels(seed: int, batch: int, classes: int) -> npt.NDArray[np.intp]:
    return np.random.default_rng((seed, 1)).integers(0, classes, batch).astype(np.intp)


def assert_rounded(got: Floats, expected: Floats, roundings: Any, magnitude: Any) -> None:
    """|got - expected| <= roundings u magnitude, with u of both precisions; underflow is allowed for."""
    info = np.finfo(got.dtype)
    u = (float(info.eps) + float(np.finfo(np.float64).eps)) / 2
    bound = 1.001 * roundings * u * np.abs(magnitude) + float(info.tiny)
    assert got.shape == np.shape(expected)
    difference = np.abs(got.astype(np.float64) - expected)
    assert np.all(difference <= bound), f"{np.max(difference / bound)} times the bound"


def assert_same_bits(got: Floats, expected: Floats) -> None:
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    assert got.tobytes() == expected.tobytes()


def one_sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


SCALAR: dict[str | None, Callable[[float], float]] = {
    "sigmoid": one_sigmoid,
    "tanh": math.tanh,
    "relu": lambda z: z if z > 0 else 0.0,
    None: float,
}


def each(function: Callable[[float], float], z: Floats) -> Floats:
    return np.array([function(float(value)) for value in z.flat]).reshape(z.shape)


def softmax_oracle(logits: Floats) -> Floats:
    """p_i = 1 / sum_j exp(z_j - z_i): another formula than the one under test."""
    table = [[float(z) for z in row] for row in logits]
    return np.array(
        [[1 / math.fsum(math.exp(min(z - own, 700.0)) for z in row) for own in row] for row in table]
    )


def loss_oracle(logits: Floats, labels: npt.NDArray[np.intp]) -> Floats:
    losses = []
    for row, label in zip(logits, labels, strict=True):
        top = max(map(float, row))
        total = math.fsum(math.exp(float(z) - top) for z in row)
        losses.append(math.log(total) + (top - float(row[label])))
    return np.array(losses)


def gradient_oracle(logits: Floats, labels: npt.NDArray[np.intp], divisor: int) -> Floats:
    return (softmax_oracle(logits) - np.eye(logits.shape[1])[labels]) / divisor


def span(logits: Floats) -> Floats:
    """Largest minus smallest logit of each row: rounding z - max costs exp up to that many roundings."""
    wide = logits.astype(np.float64)
    return np.asarray(wide.max(axis=1) - wide.min(axis=1))


@quick
@given(dtypes, seeds, rows, widths, widths, st.booleans(), st.booleans(), st.sampled_from([0.0, 1.0, -0.7]))
def test_gemm(
    dtype: str, seed: int, m: int, n: int, k: int, trans_a: bool, trans_b: bool, beta: float
) -> None:
    a = normal(seed, (k, m) if trans_a else (m, k), dtype)
    b = normal(seed + 1, (n, k) if trans_b else (k, n), dtype)
    c = normal(seed + 2, (m, n), dtype) if beta else np.full((m, n), np.nan, dtype)
    alpha_seen, beta_seen = (float(np.dtype(dtype).type(x)) for x in (1.3, beta))
    expected, magnitude = np.zeros((m, n)), np.zeros((m, n))
    for i in range(m):
        for j in range(n):
            left = a[:, i] if trans_a else a[i]
            right = b[j] if trans_b else b[:, j]
            terms = [alpha_seen * float(x) * float(y) for x, y in zip(left, right, strict=True)]
            terms.append(beta_seen * float(c[i, j]) if beta else 0.0)
            expected[i, j] = math.fsum(terms)
            magnitude[i, j] = math.fsum(map(abs, terms))
    got = reference.gemm(a, b, c, alpha=1.3, beta=beta, trans_a=trans_a, trans_b=trans_b)
    # k products and sums, times alpha, plus beta C.
    assert got.dtype == dtype
    assert_rounded(got, expected, k + 3, magnitude)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gathered_images_round_every_byte_correctly(dtype: str) -> None:
    images = np.arange(256, dtype=np.uint8).reshape(16, 16)
    order = np.random.default_rng(0).permutation(16)
    gathered = reference.gather_images(images, order, np.empty((16, 16), dtype))
    work = np.empty((16, 16), np.uint8)
    again = reference.gather_images(images, order, np.empty((16, 16), dtype), work)
    assert np.array_equal(gathered, again)
    for byte, value in zip(images[order].flat, gathered.flat, strict=True):
        half_gap = Fraction(float(np.spacing(value))) / 2
        assert abs(Fraction(float(value)) - Fraction(int(byte), 255)) <= half_gap


@quick
@given(dtypes, seeds, rows, widths, spreads, activations)
def test_activations(dtype: str, seed: int, batch: int, width: int, spread: float, name: str) -> None:
    z = normal(seed, (batch, width), dtype, spread)
    expected = each(SCALAR[name], z)
    # The sigmoid adds 1 and divides after its exp.
    roundings = {"sigmoid": EVAL + 2, "tanh": EVAL, "relu": 0}[name]
    assert_rounded(reference.ACTIVATIONS[name](z), expected, roundings, expected)


@quick
@given(dtypes, seeds, rows, widths, spreads, st.sampled_from(["sigmoid", "tanh", "relu", None]))
def test_bias_activation(
    dtype: str, seed: int, batch: int, width: int, spread: float, name: str | None
) -> None:
    z, bias = normal(seed, (batch, width), dtype, spread), normal(seed + 1, (width,), dtype)
    total = z.astype(np.float64) + bias.astype(np.float64)
    expected = each(SCALAR[name], total)
    # No slope exceeds 1, so the rounding of the sum arrives undiminished at worst.
    assert_rounded(
        reference.bias_activation(z, bias, name), expected, 1, (EVAL + 2) * np.abs(expected) + np.abs(total)
    )


@quick
@given(dtypes, seeds, rows, widths, activations)
def test_activation_backward(dtype: str, seed: int, batch: int, width: int, name: str) -> None:
    a = reference.ACTIVATIONS[name](normal(seed, (batch, width), dtype, 3.0))
    delta = normal(seed + 1, (batch, width), dtype)
    slope: Callable[[float], float] = {
        "sigmoid": lambda y: y * (1 - y),
        "tanh": lambda y: 1 - y * y,
        "relu": lambda y: float(y > 0),
    }[name]
    expected = delta.astype(np.float64) * each(slope, a)
    # Three operations; 1 - a^2 cancels, so its magnitude is the sum.
    magnitude = delta * (1 + a.astype(np.float64) ** 2) if name == "tanh" else expected
    assert_rounded(reference.activation_backward(delta, a, name), expected, 3, magnitude)


@quick
@given(seeds, rows, widths, activations)
def test_activation_backward_is_the_derivative(seed: int, batch: int, width: int, name: str) -> None:
    function, h = reference.ACTIVATIONS[name], 1e-5
    z = normal(seed, (batch, width), "float64", 2.0)
    # The kink of relu has no derivative: stay clear of it.
    z[np.abs(z) <= 2 * h] = 1.0
    difference = (function(z + h) - function(z - h)) / (2 * h)
    slope = reference.activation_backward(np.ones_like(z), function(z), name)
    # h^2 / 6 times the third derivative (at most 2), and the rounding of z and function divided by h.
    bound = h * h / 3 + 2 * EVAL * np.finfo(float).eps * (1 + np.abs(z)) / h
    assert np.all(np.abs(slope - difference) <= bound)


def test_activation_backward_rejects_an_unknown_name() -> None:
    with pytest.raises(ValueError, match="unknown activation 'gelu'"):
        reference.activation_backward(np.ones((1, 1)), np.ones((1, 1)), "gelu")


@quick
@given(dtypes, seeds, rows, widths, spreads)
def test_softmax_and_losses(dtype: str, seed: int, batch: int, classes: int, spread: float) -> None:
    logits, labels = normal(seed, (batch, classes), dtype, spread), draw_labels(seed, batch, classes)
    expected, wide = softmax_oracle(logits), span(logits)
    # Shift, exp and sum in numerator and denominator, a division.
    relative = 2 * wide + classes + 2 * EVAL + 2
    assert_rounded(reference.softmax(logits), expected, relative[:, None], expected)
    losses = loss_oracle(logits, labels)
    # A relative error of the sum is an absolute one of its logarithm.
    assert_rounded(reference.cross_entropy(logits, labels), losses, 1, relative + (EVAL + 1) * losses)
    gradient = gradient_oracle(logits, labels, 2 * batch)
    magnitude = (expected + np.eye(classes)[labels]) / (2 * batch)
    assert_rounded(
        reference.cross_entropy_gradient(logits, labels, 2 * batch),
        gradient,
        relative[:, None] + 3,
        magnitude,
    )


@quick
@given(dtypes, seeds, rows, widths, spreads, st.sampled_from([1, 3, 60000]))
def test_both_at_once_by_columns(
    dtype: str, seed: int, batch: int, classes: int, spread: float, divisor: int
) -> None:
    logits, labels = normal(seed, (batch, classes), dtype, spread), draw_labels(seed, batch, classes)
    expected_losses = reference.cross_entropy(logits, labels).astype(np.float64)
    expected_gradient = reference.cross_entropy_gradient(logits, labels, divisor).astype(np.float64)
    magnitude = (softmax_oracle(logits) + np.eye(classes)[labels]) / divisor
    relative = 2 * span(logits) + classes + 2 * EVAL + 2
    work, losses = reference.ColumnWork(logits), np.empty(batch, dtype)
    # A second use of the work buffers finds what the first one left there.
    for gradient in (logits.copy(), logits.copy()):
        reference.softmax_cross_entropy_columns(gradient, labels, losses, divisor, work)
        # Both sides are rounded, each as far as the test above allows.
        assert_rounded(losses, expected_losses, 2, relative + (EVAL + 1) * expected_losses)
        assert_rounded(gradient, expected_gradient, 2 * relative[:, None] + 8, magnitude)


@quick
@given(seeds, rows, widths)
def test_cross_entropy_gradient_is_the_derivative(seed: int, batch: int, classes: int) -> None:
    logits, labels, h = normal(seed, (batch, classes), "float64"), draw_labels(seed, batch, classes), 1e-5
    gradient = reference.cross_entropy_gradient(logits, labels, 1)
    for column in range(classes):
        step = np.zeros_like(logits)
        step[:, column] = h
        up, down = (reference.cross_entropy(logits + side * step, labels) for side in (1, -1))
        # h^2 / 6 times the third derivative (below 1), and the rounding of logits and loss divided by h.
        bound = h * h / 6 + (classes + 4 * EVAL) * np.finfo(float).eps * (1 + span(logits)) / h
        assert np.all(np.abs(gradient[:, column] - (up - down) / (2 * h)) <= bound)


@quick
@given(dtypes, seeds, rows, widths)
def test_count_correct(dtype: str, seed: int, batch: int, classes: int) -> None:
    # Few distinct values, so that rows have several maxima: the first one counts.
    logits = np.random.default_rng(seed).integers(0, 3, (batch, classes)).astype(dtype)
    labels = draw_labels(seed, batch, classes)
    right = [list(row).index(max(row)) == label for row, label in zip(logits, labels, strict=True)]
    assert reference.count_correct(logits, labels) == sum(right)


@quick
@given(dtypes, seeds, rows, widths)
def test_column_sum(dtype: str, seed: int, batch: int, width: int) -> None:
    x = normal(seed, (batch, width), dtype)
    expected = np.array([math.fsum(map(float, column)) for column in x.T])
    got = reference.column_sum(x)
    assert_rounded(got, expected, batch, np.abs(x.astype(np.float64)).sum(axis=0))
    out = np.full(width, np.nan, dtype)
    assert reference.column_sum(x, out=out) is out
    assert_same_bits(out, got)


@quick
@given(dtypes, seeds, rows, widths, st.sampled_from([1e-3, 0.5, 3.0]), st.sampled_from([0.0, 2e-5, 0.1]))
def test_sgd_update(dtype: str, seed: int, m: int, n: int, lr: float, decay: float) -> None:
    parameter, gradient = normal(seed, (m, n), dtype), normal(seed + 1, (m, n), dtype)
    kept = (1 - lr * decay) * parameter.astype(np.float64)
    moved = lr * gradient.astype(np.float64)
    reference.sgd_update(parameter, gradient, lr, decay)
    # Each factor and each product is rounded, then the difference.
    assert_rounded(parameter, kept - moved, 4, np.abs(kept) + np.abs(moved))


@quick
@given(dtypes, seeds, rows, widths, st.sampled_from(sorted(IN_PLACE)))
def test_out_gives_the_same_bits(dtype: str, seed: int, batch: int, width: int, name: str) -> None:
    function, z = IN_PLACE[name], normal(seed, (batch, width), dtype, 5.0)
    before = z.copy()
    expected, out = function(z), np.full_like(z, np.nan)
    assert_same_bits(z, before)
    assert function(z, out=out) is out
    assert_same_bits(out, expected)
    assert function(z, out=z) is z
    assert_same_bits(z, expected)


@quick
@given(dtypes, seeds, rows, widths, activations)
def test_out_of_two_operands(dtype: str, seed: int, batch: int, width: int, name: str) -> None:
    z, bias = normal(seed, (batch, width), dtype, 5.0), normal(seed + 1, (width,), dtype)
    a = reference.bias_activation(z, bias, name)
    for out in (np.full_like(z, np.nan), z):
        assert_same_bits(reference.bias_activation(z, bias, name, out=out), a)
    delta = normal(seed + 2, (batch, width), dtype)
    back = reference.activation_backward(delta, a, name)
    work = np.full_like(a, np.nan)
    assert_same_bits(reference.activation_backward(delta, a, name, out=np.empty_like(a), work=work), back)
    assert_same_bits(reference.activation_backward(delta, a.copy(), name, out=delta.copy(), work=work), back)
    assert_same_bits(reference.activation_backward(delta, a, name, out=a), back)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_logits_stay_finite(dtype: str) -> None:
    logits = np.array([[1e4, -1e4, 0], [-1e4, -1e4, -1e4], [1e4, 1e4, -1e4]], dtype)
    labels = np.array([1, 0, 1], np.intp)
    # exp(-1e4) underflows to 0 in both precisions: the rest is exact but for log and thirds.
    losses = np.array([2e4, math.log(3), math.log(2)])
    probabilities = np.array([[1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0]])
    assert_rounded(reference.softmax(logits), probabilities, EVAL, probabilities)
    assert_rounded(reference.cross_entropy(logits, labels), losses, EVAL, losses)
    gradient = probabilities - np.eye(3)[labels]
    assert_rounded(reference.cross_entropy_gradient(logits, labels, 1), gradient, EVAL, 1.0)
    got = np.empty(3, dtype)
    reference.softmax_cross_entropy_columns(logits, labels, got, 1, reference.ColumnWork(logits))
    assert_rounded(got, losses, EVAL, losses)
    assert_rounded(logits, gradient, EVAL, 1.0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_saturation_and_nan(dtype: str) -> None:
    z = np.array([-1e4, -200, 200, 1e4], dtype)
    got = reference.sigmoid(z)
    assert list(got[[0, 2, 3]]) == [0, 1, 1]
    assert 0 <= got[1] <= 1e-80
    assert list(reference.tanh(z)) == [-1, -1, 1, 1]
    nan = np.array([np.nan], dtype)
    for function in reference.ACTIVATIONS.values():
        assert np.isnan(function(nan)).all()
