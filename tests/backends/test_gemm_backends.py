"""The kernels behind the backends `naive` and `tiled`: right for every shape, scaling and transposition."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnkit import reference
from nnkit.contracts import Array, Device, FusedGemmBackend, GemmBackend
from nnkit.plugins import Registry
from nnkit.verify.bounds import gemm_bound, unit_roundoff, within
from nnkit.verify.gemm_check import check_gemm

Floats = npt.NDArray[Any]

EVAL = 12
"""Roundings granted to an activation: exp and tanh within four units in the last place, and what follows."""

# Around the edges of blocks and tiles, the classes, a hidden layer, primes.
lengths = st.sampled_from([0, 1, 2, 10, 15, 16, 17, 31, 63, 64, 65, 100, 113])
seeds = st.integers(0, 2**32 - 1)
dtypes = st.sampled_from(["float32", "float64"])
kernel_tests = settings(max_examples=30, deadline=None)


@pytest.fixture(scope="module", params=["naive", "tiled"])
def backend(request: pytest.FixtureRequest) -> GemmBackend[Array]:
    return Registry.discover().gemm(request.param)


def operands(
    seed: int, m: int, n: int, k: int, dtype: str, trans_a: bool, trans_b: bool, integers: bool = False
) -> tuple[Floats, Floats, Floats]:
    generator = np.random.default_rng(seed)

    def draw(*shape: int) -> Floats:
        if integers:
            return generator.integers(-8, 9, shape).astype(dtype)
        return generator.standard_normal(shape).astype(dtype)

    return draw(*(k, m) if trans_a else (m, k)), draw(*(n, k) if trans_b else (k, n)), draw(m, n)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "sizes", [(65, 33, 17), (130, 113, 40), (20, 10, 100), (10, 20, 33), (0, 3, 2), (3, 2, 0)]
)
def test_every_transposition_and_scaling(
    backend: GemmBackend[Array], kernel_device: Device[Array], sizes: tuple[int, int, int], dtype: str
) -> None:
    cases = check_gemm(backend, kernel_device, *sizes, dtype, seed=0, edges=())
    assert [case.failures for case in cases] == [()] * 16


@kernel_tests
@given(lengths, lengths, lengths, dtypes, st.booleans(), st.booleans(), seeds)
def test_any_shape(
    backend: GemmBackend[Array],
    kernel_device: Device[Array],
    m: int,
    n: int,
    k: int,
    dtype: str,
    trans_a: bool,
    trans_b: bool,
    seed: int,
) -> None:
    a, b, c = operands(seed, m, n, k, dtype, trans_a, trans_b)
    got = multiply(backend, kernel_device, a, b, c, alpha=0.5, beta=-2.0, trans_a=trans_a, trans_b=trans_b)
    wide = a.astype(np.float64), b.astype(np.float64), c.astype(np.float64)
    turned: dict[str, Any] = {"trans_a": trans_a, "trans_b": trans_b}
    expected = reference.gemm(*wide, alpha=0.5, beta=-2.0, **turned)
    magnitude = reference.gemm(*map(np.abs, wide), alpha=0.5, beta=2.0, **turned)
    assert within(np.abs(got.astype(np.float64) - expected), gemm_bound(k, magnitude, dtype))


@kernel_tests
@given(lengths, lengths, lengths, dtypes, st.booleans(), st.booleans(), seeds)
def test_small_integers_are_exact(
    backend: GemmBackend[Array],
    kernel_device: Device[Array],
    m: int,
    n: int,
    k: int,
    dtype: str,
    trans_a: bool,
    trans_b: bool,
    seed: int,
) -> None:
    a, b, c = operands(seed, m, n, k, dtype, trans_a, trans_b, integers=True)
    expected = reference.gemm(a, b, c, alpha=2.0, beta=5.0, trans_a=trans_a, trans_b=trans_b)
    got = multiply(backend, kernel_device, a, b, c, alpha=2.0, beta=5.0, trans_a=trans_a, trans_b=trans_b)
    assert np.array_equal(got, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_bits_every_time(
    backend: GemmBackend[Array], kernel_device: Device[Array], dtype: str
) -> None:
    a, b, c = operands(3, 100, 65, 77, dtype, False, True)
    first, second = (multiply(backend, kernel_device, a, b, c, trans_b=True) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_the_last_term_counts(backend: GemmBackend[Array], kernel_device: Device[Array]) -> None:
    """Only the last term is not zero, wherever it falls in a slice of the common dimension."""
    for k in (1, 15, 16, 17, 33):
        a, b = np.zeros((3, k), np.float32), np.zeros((k, 4), np.float32)
        a[:, -1], b[-1] = 2, 3
        got = multiply(backend, kernel_device, a, b, np.full((3, 4), np.nan, np.float32))
        assert np.all(got == 6), k


def test_disagreeing_operands_are_refused(backend: GemmBackend[Array], kernel_device: Device[Array]) -> None:
    def zeros(*shape: int, dtype: str = "float32") -> Any:
        return kernel_device.zeros(shape, dtype)

    gemm: Callable[..., None] = backend.gemm
    with pytest.raises(ValueError, match=r"A \(2, 3\), B \(4, 5\)"):
        gemm(zeros(2, 3), zeros(4, 5), zeros(2, 5))
    with pytest.raises(ValueError, match=r"C \(2, 4\)"):
        gemm(zeros(2, 3), zeros(3, 5), zeros(2, 4))
    with pytest.raises(ValueError, match="A is float32, B float64"):
        gemm(zeros(2, 3), zeros(3, 5, dtype="float64"), zeros(2, 5))
    with pytest.raises(ValueError, match="give float32 or float64"):
        gemm(*(zeros(2, 2, dtype="int32") for _ in range(3)))


@kernel_tests
@given(
    lengths, lengths, lengths, dtypes, st.sampled_from(sorted(reference.ACTIVATIONS)), st.booleans(), seeds
)
def test_the_fused_epilogue(
    kernel_device: Device[Array],
    m: int,
    n: int,
    k: int,
    dtype: str,
    activation: str,
    trans_b: bool,
    seed: int,
) -> None:
    fused: Any = Registry.discover().gemm("tiled")
    assert activation in fused.fused_activations
    a, b, c = operands(seed, m, n, k, dtype, False, trans_b)
    bias = np.random.default_rng((seed, 1)).standard_normal(n).astype(dtype)
    got = fuse(fused, kernel_device, a, b, np.full_like(c, np.nan), bias, activation, trans_b)

    wide = a.astype(np.float64), b.astype(np.float64), c.astype(np.float64)
    z = reference.gemm(*wide, trans_b=trans_b) + bias
    magnitude = reference.gemm(*map(np.abs, wide), trans_b=trans_b) + np.abs(bias)
    expected = reference.ACTIVATIONS[activation](z)
    # No activation is steeper than 1, so it does not enlarge the error of its argument.
    bound = gemm_bound(k + 1, magnitude, dtype) + EVAL * unit_roundoff(dtype) * np.abs(expected)
    assert within(np.abs(got.astype(np.float64) - expected), bound)


def test_the_fused_epilogue_refuses_what_does_not_fit(kernel_device: Device[Array]) -> None:
    fused: Any = Registry.discover().gemm("tiled")
    a, b, c = (kernel_device.zeros((2, 2), "float32") for _ in range(3))
    with pytest.raises(ValueError, match=r"\(3,\)"):
        fused.gemm_bias_activation(a, b, c, kernel_device.zeros((3,), "float32"), activation="relu")
    with pytest.raises(ValueError, match="gelu"):
        fused.gemm_bias_activation(a, b, c, kernel_device.zeros((2,), "float32"), activation="gelu")


def multiply(
    backend: GemmBackend[Array], device: Device[Array], a: Floats, b: Floats, c: Floats, **options: Any
) -> Floats:
    """The product of copies of these on the device; a and b must come back as they were."""
    left, right, out = device.upload(a), device.upload(b), device.upload(c)
    backend.gemm(left, right, out, **options)
    assert left.download().tobytes() == a.tobytes()
    assert right.download().tobytes() == b.tobytes()
    return np.asarray(out.download())


def fuse(
    backend: FusedGemmBackend[Array],
    device: Device[Array],
    a: Floats,
    b: Floats,
    c: Floats,
    bias: Floats,
    activation: str,
    trans_b: bool,
) -> Floats:
    left, right, out, added = map(device.upload, (a, b, c, bias))
    backend.gemm_bias_activation(left, right, out, added, activation=activation, trans_b=trans_b)
    return np.asarray(out.download())
