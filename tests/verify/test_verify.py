"""The judge of matrix products: it lets correct code pass and catches every kind of broken code."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnkit.contracts import GemmBackend, HostArray
from nnkit.device.cpu import CpuDevice
from nnkit.plugins import Registry
from nnkit.verify.bounds import gamma, gemm_bound, unit_roundoff, within
from nnkit.verify.gemm_check import SCALINGS, Case, check_gemm

NUMPY = Registry.discover().gemm("numpy")
BOTH = pytest.mark.parametrize("dtype", ["float32", "float64"])


def failures(backend: GemmBackend[HostArray], dtype: str, m: int = 7, n: int = 5, k: int = 9) -> list[str]:
    cases = check_gemm(backend, CpuDevice(), m, n, k, dtype, seed=1, edges=())
    return [failure for case in cases for failure in case.failures]


def test_unit_roundoff() -> None:
    assert unit_roundoff("float32") == 2.0**-24
    assert unit_roundoff("float64") == 2.0**-53


def test_gamma() -> None:
    assert gamma(0, "float32") == 0
    assert gamma(1, "float32") == 2.0**-24 / (1 - 2.0**-24)
    # k u = 1/2 is exact.
    assert gamma(2**23, "float32") == 1
    assert gamma(2**24, "float32") == np.inf
    assert gamma(2**24, "float64") < 1e-8


@BOTH
def test_the_bound_grows_with_gauge_and_terms(dtype: str) -> None:
    magnitude = np.array([[0.0, 1.0, 2.0]])
    few, many = gemm_bound(3, magnitude, dtype)[0], gemm_bound(30, magnitude, dtype)[0]
    assert np.all(few > 0)
    assert np.all(np.diff(few) > 0)
    assert np.all(many > few)
    # Five roundings on each side, and next to nothing on top.
    both_sides = 5 * (unit_roundoff(dtype) + unit_roundoff("float64"))
    assert both_sides <= few[1] <= 1.0001 * both_sides


def test_within() -> None:
    ones = np.ones(3)
    assert within(ones, ones)
    assert within(np.empty((0, 3)), np.empty((0, 3)))
    assert not within(np.array([0, 1.01, 0]), ones)


@given(st.integers(0, 3), st.sampled_from([0.0, 1.0, np.inf]))
def test_nan_is_never_within(at: int, allowed: float) -> None:
    difference, bound = np.zeros(4), np.full(4, allowed)
    difference[at] = np.nan
    assert not within(difference, bound)
    assert not within(np.zeros(4), difference)


lengths = st.sampled_from([0, 1, 2, 3, 8, 17, 64])


@settings(max_examples=40, deadline=None)
@given(lengths, lengths, lengths, st.sampled_from(["float32", "float64"]), st.integers(0, 2**32 - 1))
def test_the_numpy_backend_passes(m: int, n: int, k: int, dtype: str, seed: int) -> None:
    cases = check_gemm(NUMPY, CpuDevice(), m, n, k, dtype, seed, edges=())
    assert [case.failures for case in cases] == [()] * 16
    assert all(case.of_bound <= 1 for case in cases)


@BOTH
def test_exact_data_has_no_error(dtype: str) -> None:
    """The float64 result itself is far within the bound: rounded to float32 once, to float64 not at all."""

    class Exact(Wrapped):
        def after(self, a: Any, b: Any, c: Any, before: Any, options: Any) -> None:
            left, right = (x.astype(np.float64) for x in (a, b))
            left, right = (left.T if options["trans_a"] else left, right.T if options["trans_b"] else right)
            alpha, beta = (float(c.dtype.type(options[name])) for name in ("alpha", "beta"))
            c[:] = alpha * (left @ right) + (beta * before if beta else 0)

    # The bound allows K + 2 roundings, three here; rounding the result is one.
    cases = check_gemm(Exact(), CpuDevice(), 6, 6, 1, dtype, seed=2, edges=())
    assert not any(case.failures for case in cases)
    assert all(case.of_bound <= 0.5 for case in cases)
    if dtype == "float64":
        assert all(case.largest_error == 0 for case in cases)


class Wrapped:
    """The backend `numpy`, spoiled by what `after` does to operands and result."""

    name = "wrapped"
    devices = frozenset({"cpu"})
    dtypes = frozenset({"float32", "float64"})

    def gemm(self, a: HostArray, b: HostArray, c: HostArray, **options: Any) -> None:
        before = c.host.copy()
        NUMPY.gemm(a, b, c, **options)
        self.after(a.host, b.host, c.host, before, options)

    def after(self, a: Any, b: Any, c: Any, before: Any, options: dict[str, Any]) -> None:
        """Do nothing: this one is correct."""


class IgnoresBeta(Wrapped):
    def gemm(self, a: HostArray, b: HostArray, c: HostArray, **options: Any) -> None:
        NUMPY.gemm(a, b, c, **{**options, "beta": 0.0})


class IgnoresAlpha(Wrapped):
    def gemm(self, a: HostArray, b: HostArray, c: HostArray, **options: Any) -> None:
        NUMPY.gemm(a, b, c, **{**options, "alpha": 1.0})


class ReadsOutput(Wrapped):
    def after(self, a: Any, b: Any, c: Any, before: Any, options: dict[str, Any]) -> None:
        c += 0 * before


class SwapsTranspositions(Wrapped):
    """Right where both or neither are transposed: the mixed cases alone tell."""

    def gemm(self, a: HostArray, b: HostArray, c: HostArray, **options: Any) -> None:
        NUMPY.gemm(a, b, c, **{**options, "trans_a": options["trans_b"], "trans_b": options["trans_a"]})


class DropsLastTerm(Wrapped):
    def after(self, a: Any, b: Any, c: Any, before: Any, options: dict[str, Any]) -> None:
        column = a[-1] if options["trans_a"] else a[:, -1]
        row = b[:, -1] if options["trans_b"] else b[-1]
        c -= c.dtype.type(options["alpha"]) * np.outer(column, row)


class SkipsLastRow(Wrapped):
    def after(self, a: Any, b: Any, c: Any, before: Any, options: dict[str, Any]) -> None:
        c[-1] = before[-1]


class SkipsLastColumn(Wrapped):
    def after(self, a: Any, b: Any, c: Any, before: Any, options: dict[str, Any]) -> None:
        c[:, -1] = before[:, -1]


class OverwritesA(Wrapped):
    def after(self, a: Any, b: Any, c: Any, before: Any, options: dict[str, Any]) -> None:
        a[0, 0] += 1


class OverwritesB(Wrapped):
    def after(self, a: Any, b: Any, c: Any, before: Any, options: dict[str, Any]) -> None:
        b[-1, -1] = 0


class WritesARowBefore(Wrapped):
    def after(self, a: Any, b: Any, c: Any, before: Any, options: dict[str, Any]) -> None:
        outside(c)[0] = 0


class WritesARowBehind(Wrapped):
    def after(self, a: Any, b: Any, c: Any, before: Any, options: dict[str, Any]) -> None:
        outside(c)[1] = 0


class AccumulatesInHalf(Wrapped):
    def after(self, a: Any, b: Any, c: Any, before: Any, options: dict[str, Any]) -> None:
        c[:] = c.astype(np.float16)


class AccumulatesInSingle(Wrapped):
    def after(self, a: Any, b: Any, c: Any, before: Any, options: dict[str, Any]) -> None:
        c[:] = c.astype(np.float32)


class DoesNothing(Wrapped):
    def gemm(self, a: HostArray, b: HostArray, c: HostArray, **options: Any) -> None:
        """Leave what stood there."""


class ReturnsNan(Wrapped):
    def after(self, a: Any, b: Any, c: Any, before: Any, options: dict[str, Any]) -> None:
        c[0, 0] = np.nan


class ReturnsInfinity(Wrapped):
    def after(self, a: Any, b: Any, c: Any, before: Any, options: dict[str, Any]) -> None:
        c[-1, 0] = np.inf


class Raises(Wrapped):
    def gemm(self, a: HostArray, b: HostArray, c: HostArray, **options: Any) -> None:
        raise RuntimeError("out of patience")


def outside(c: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The rows of the memory around `c` that lie next to it, one before and one behind."""
    whole = c.base
    assert whole is not None
    start = (c.__array_interface__["data"][0] - whole.__array_interface__["data"][0]) // whole.strides[0]
    return whole[start - 1 : start + len(c) + 1 : len(c) + 1]


BROKEN = {
    IgnoresBeta: "break their bound",
    IgnoresAlpha: "break their bound",
    ReadsOutput: "break their bound",
    SwapsTranspositions: "raised ValueError",
    DropsLastTerm: "break their bound",
    SkipsLastRow: "break their bound",
    SkipsLastColumn: "break their bound",
    OverwritesA: "overwrote its input A",
    OverwritesB: "overwrote its input B",
    WritesARowBefore: "wrote outside its output",
    WritesARowBehind: "wrote outside its output",
    AccumulatesInHalf: "break their bound",
    DoesNothing: "break their bound",
    ReturnsNan: "break their bound",
    ReturnsInfinity: "break their bound",
    Raises: "raised RuntimeError: out of patience",
}


@BOTH
def test_the_wrapper_alone_is_not_what_is_caught(dtype: str) -> None:
    assert failures(Wrapped(), dtype) == []


@BOTH
@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_broken_backend_is_caught(broken: type[Wrapped], dtype: str) -> None:
    found = failures(broken(), dtype)
    assert any(BROKEN[broken] in failure for failure in found)
    assert not any("\n" in failure for failure in found)


@BOTH
def test_swapped_transpositions_are_caught_where_every_shape_fits(dtype: str) -> None:
    found = failures(SwapsTranspositions(), dtype, 6, 6, 6)
    assert found
    assert all("break their bound" in failure for failure in found)


def test_single_precision_is_not_enough_for_double() -> None:
    assert failures(AccumulatesInSingle(), "float32") == []
    assert failures(AccumulatesInSingle(), "float64")


@BOTH
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 3), (5, 1, 3), (65, 33, 17)])
@pytest.mark.parametrize("broken", [DropsLastTerm, SkipsLastRow, SkipsLastColumn, DoesNothing])
def test_edges_are_caught_at_other_shapes(broken: type[Wrapped], shape: tuple[int, ...], dtype: str) -> None:
    assert failures(broken(), dtype, *shape)


@BOTH
def test_without_terms_the_output_must_still_be_written(dtype: str) -> None:
    assert failures(DoesNothing(), dtype, 3, 4, 0)


def test_cases_name_what_was_tried() -> None:
    cases = check_gemm(NUMPY, CpuDevice(), 2, 3, 4, "float32", seed=0)
    tried = {(case.trans_a, case.trans_b, case.alpha, case.beta) for case in cases}
    both = (False, True)
    assert tried == {(a, b, alpha, beta) for a in both for b in both for alpha, beta in SCALINGS}


def test_the_numbers_of_a_nan_are_infinite() -> None:
    def numbers(case: Case) -> tuple[float, float, float]:
        return case.largest_error, case.of_bound, case.of_estimate

    cases = check_gemm(ReturnsNan(), CpuDevice(), 2, 3, 4, "float32", seed=0)
    assert {numbers(case) for case in cases} == {(np.inf, np.inf, np.inf)}


def test_huge_garbage_is_judged_without_a_warning() -> None:
    backend = HugeGarbage()
    cases = check_gemm(backend, CpuDevice(), 2, 2, 0, "float64", 0)
    assert all(case.failures for case in cases)


class HugeGarbage:
    name = "huge"
    devices = frozenset({"cpu"})
    dtypes = frozenset({"float64"})

    def gemm(self, a: Any, b: Any, c: Any, **options: Any) -> None:
        c.host[:] = 1e300
