"""Rounding error bounds of a matrix product, component by component.

Source: Higham, Accuracy and Stability of Numerical Algorithms (2nd ed., 2002), sections 3.1 and 3.5. The
bounds hold for any order of summation, with or without fused multiply-add, if nothing overflows.
"""

from typing import Any

import numpy as np
import numpy.typing as npt


def unit_roundoff(dtype: npt.DTypeLike) -> float:
    """The unit roundoff u: half the distance from 1 to the next larger number of the type."""
    return float(np.finfo(np.dtype(dtype)).eps) / 2


def gamma(terms: int, dtype: npt.DTypeLike) -> float:
    """k u / (1 - k u), the bound on the relative error of k roundings; infinite where k u >= 1."""
    ku = terms * unit_roundoff(dtype)
    return ku / (1 - ku) if ku < 1 else float("inf")


def gemm_bound(k: int, magnitude: npt.NDArray[Any], dtype: npt.DTypeLike) -> npt.NDArray[np.float64]:
    """The largest difference (M, N) to a float64 result that correct code in `dtype` can have.

    `magnitude` is |alpha| |A| |B| + |beta| |C0| (M, N); each sum has `k` terms. The float64 result has a
    rounding error of its own, which is added, and so is that of `magnitude`.
    """
    allowed = gamma(k + 2, dtype) + gamma(k + 2, np.float64)
    # A product that underflows has an absolute error, of one subnormal spacing at most.
    tiny = float(np.finfo(np.dtype(dtype)).smallest_subnormal)
    return np.asarray(allowed * (1 + gamma(k + 2, np.float64)) * magnitude + (k + 2) * tiny)


def within(difference: npt.NDArray[Any], bound: npt.NDArray[Any]) -> bool:
    """Whether every component is within its bound. A NaN is not."""
    return bool(np.all(difference <= bound))
