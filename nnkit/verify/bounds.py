"""Rounding error bounds of a matrix product, component by component.

Source: Higham, Accuracy and Stability of Numerical Algorithms (2nd ed., 2002), sections 3.1 and 3.5. They
hold for any order of summation, with or without fused multiply-add; overflow and underflow aside.
"""

from typing import Any

import numpy as np
import numpy.typing as npt


def unit_roundoff(dtype: npt.DTypeLike) -> float:
    """Half the distance from 1 to the next number."""
    return float(np.finfo(np.dtype(dtype)).eps) / 2


def gamma(terms: int, dtype: npt.DTypeLike) -> float:
    """k u / (1 - k u), the bound on the relative error of k roundings; infinite where k u >= 1."""
    ku = terms * unit_roundoff(dtype)
    return ku / (1 - ku) if ku < 1 else float("inf")


def gemm_bound(k: int, gauge: npt.NDArray[Any], dtype: npt.DTypeLike) -> npt.NDArray[np.float64]:
    """The largest difference from a float64 result that correct code in `dtype` can show.

    `gauge` is |alpha| |A| |B| + |beta| |C0| (M, N). The float64 result has an error of its own, which is
    added: in float64 both sides are allowed the same. A little is added for the rounding of the gauge.
    """
    allowed = gamma(k + 2, dtype) + gamma(k + 2, np.float64)
    # Products may underflow: each loses at most one subnormal spacing.
    tiny = float(np.finfo(np.dtype(dtype)).smallest_subnormal)
    return np.asarray(allowed * (1 + gamma(k + 2, np.float64)) * gauge + (k + 2) * tiny)


def within(difference: npt.NDArray[Any], bound: npt.NDArray[Any]) -> bool:
    """Whether every component keeps its bound. A NaN keeps none."""
    return bool(np.all(difference <= bound))
