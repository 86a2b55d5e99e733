"""Judges a GEMM backend: random operands, the float64 product beside it, a verdict with the bound it used."""

from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from nnkit import reference
from nnkit.contracts import Device, GemmBackend
from nnkit.verify.bounds import gemm_bound, unit_roundoff, within

SCALINGS = ((1.0, 0.0), (2.0, 5.0), (0.7, 1.0), (0.0, 1.3))
"""alpha and beta of the cases."""

GUARD = 3
"""Rows of poison before and after the output: whoever writes them writes outside its matrix."""


@dataclass(frozen=True)
class Case:
    """One product and how it came out."""

    trans_a: bool
    trans_b: bool
    alpha: float
    beta: float
    failures: tuple[str, ...]
    """Empty where all is well."""
    largest_error: float
    """The largest |C_hat - C|, infinite where a component is not finite."""
    of_bound: float
    """The largest error as a multiple of its component's rounding bound: above 1 is a bug for certain."""
    of_estimate: float
    """The same against sqrt(K + 2) u, how errors of correct code usually grow (arXiv 1906.10465)."""


def check_gemm(
    backend: GemmBackend, device: Device, m: int, n: int, k: int, dtype: npt.DTypeLike, seed: int
) -> list[Case]:
    """Try all four transpositions with all scalings. A backend that raises fails its case."""
    generator = np.random.default_rng(seed)
    cases = []
    for trans_a, trans_b, (alpha, beta) in product((False, True), (False, True), SCALINGS):
        a = generator.standard_normal((k, m) if trans_a else (m, k)).astype(dtype)
        b = generator.standard_normal((n, k) if trans_b else (k, n)).astype(dtype)
        c = generator.standard_normal((m, n)).astype(dtype)
        if beta == 0.0:
            # With beta = 0 the output is not read: whoever does read it drags a NaN along.
            c[:] = np.nan
        cases.append(_case(backend, device, a, b, c, alpha, beta, trans_a, trans_b))
    return cases


def _case(
    backend: GemmBackend,
    device: Device,
    a: npt.NDArray[Any],
    b: npt.NDArray[Any],
    c: npt.NDArray[Any],
    alpha: float,
    beta: float,
    trans_a: bool,
    trans_b: bool,
) -> Case:
    """Run one product and judge the result, the operands and the memory around the output."""
    m, n = c.shape
    k = a.shape[0] if trans_a else a.shape[1]
    failures = []
    # The output stands between rows of poison, so that a row too many is seen.
    guarded = np.full((m + 2 * GUARD, n), np.nan, c.dtype)
    guarded[GUARD : GUARD + m] = c
    on_device = device.upload(guarded)
    left, right = device.upload(a), device.upload(b)
    try:
        backend.gemm(
            left,
            right,
            on_device.rows(GUARD, GUARD + m),
            alpha=alpha,
            beta=beta,
            trans_a=trans_a,
            trans_b=trans_b,
        )
    except Exception as error:
        failures.append(f"raised {type(error).__name__}: {error}")
    after = on_device.download()
    result = after[GUARD : GUARD + m].astype(np.float64)
    if not (np.isnan(after[:GUARD]).all() and np.isnan(after[GUARD + m :]).all()):
        failures.append("wrote outside its output")
    for name, operand, before in (("A", left, a), ("B", right, b)):
        if not np.array_equal(operand.download(), before):
            failures.append(f"overwrote its input {name}")

    wide = a.astype(np.float64), b.astype(np.float64), c.astype(np.float64)
    # alpha and beta as the backend sees them, rounded to its precision.
    alpha_seen, beta_seen = float(c.dtype.type(alpha)), float(c.dtype.type(beta))
    turned = partial(reference.gemm, trans_a=trans_a, trans_b=trans_b)
    expected = turned(*wide, alpha=alpha_seen, beta=beta_seen)
    gauge = turned(*map(np.abs, wide), alpha=abs(alpha_seen), beta=abs(beta_seen))
    difference = np.abs(result - expected)
    bound = gemm_bound(k, gauge, c.dtype)
    if not within(difference, bound):
        failures.append(_worst(result, expected, bound, difference))
    estimate = np.sqrt(k + 2) * unit_roundoff(c.dtype) * gauge
    return Case(
        trans_a,
        trans_b,
        alpha,
        beta,
        tuple(failures),
        _largest(difference, np.ones_like(difference)),
        _largest(difference, bound),
        _largest(difference, estimate),
    )


def _largest(difference: npt.NDArray[Any], unit: npt.NDArray[Any]) -> float:
    """The largest difference in its unit; 0 / 0 is 0, and NaN counts as infinite."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = np.where(difference == 0, 0.0, difference / unit)
    return float(np.nan_to_num(ratio, nan=np.inf, posinf=np.inf).max(initial=0.0))


def _worst(
    result: npt.NDArray[Any],
    expected: npt.NDArray[Any],
    bound: npt.NDArray[Any],
    difference: npt.NDArray[Any],
) -> str:
    """The component that breaks its bound most, and how many do."""
    broken = ~(difference <= bound)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        excess = np.where(broken, np.nan_to_num(difference / bound, nan=np.inf, posinf=np.inf), 0.0)
    row, column = np.unravel_index(int(excess.argmax()), excess.shape)
    return (
        f"{int(broken.sum())} of {broken.size} components break their bound, first C[{row},{column}]: "
        f"got {result[row, column]:.9g}, expected {expected[row, column]:.9g} +- {bound[row, column]:.3g}"
    )
