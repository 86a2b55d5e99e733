"""Fitting the cost model to measurements: least squares of relative errors, with no negative cost."""

from collections.abc import Sequence
from dataclasses import astuple

import numpy as np
import numpy.typing as npt

from nnkit.cost.model import Line
from nnkit.cost.step import Work


def fit_line(measured: Sequence[tuple[float, float]]) -> Line:
    """alpha and beta from (bytes, seconds) of sums of different sizes."""
    sizes, seconds = np.array(measured, np.float64).T
    alpha, beta = fit(np.stack([np.ones_like(sizes), sizes], axis=1), seconds)
    return Line(float(alpha), float(beta))


def fit_work(measured: Sequence[tuple[Work, float]]) -> Work:
    """The seconds that one of each kind of work takes, from whole steps of different shapes."""
    kinds = np.array([astuple(work) for work, _ in measured], np.float64)
    return Work(*map(float, fit(kinds, np.array([seconds for _, seconds in measured], np.float64))))


def fit_waiting(
    computing: Sequence[float], paced: Sequence[float], sum_seconds: float
) -> tuple[float, float]:
    """Seconds a meeting and part of the computing that ranks lose where they meet.

    `computing` is what the model says of steps of different size, `paced` what they took with a sum of one
    number behind each, and `sum_seconds` what that sum takes by itself.
    """
    known, total = np.array(computing), np.array(paced)
    # Errors count relative to the whole step, as for computing: a loss of nothing may be measured as less.
    matrix = np.stack([np.ones_like(known), known], axis=1)
    alpha, beta = fit(matrix, total - known - sum_seconds, weights=1 / total)
    return float(alpha), float(beta)


def fit(
    matrix: npt.NDArray[np.float64],
    seconds: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[np.float64]:
    """x >= 0 with the least sum of squares of (matrix x - seconds) * weights; by default 1 / seconds.

    Relative, since a step of 0.2 ms shall be predicted as well as one of 50 ms. A column whose coefficient
    comes out negative is left out and the rest fitted anew: the active set method in its simplest form.
    """
    weights = 1 / seconds if weights is None else weights
    relative, wanted = matrix * weights[:, None], seconds * weights
    largest = np.abs(relative).max(axis=0)
    kept = [column for column in range(matrix.shape[1]) if largest[column] > 0]
    found = np.zeros(matrix.shape[1])
    while kept:
        scaled = relative[:, kept] / largest[kept]
        solution = np.linalg.lstsq(scaled, wanted, rcond=None)[0]
        if solution.min() >= 0:
            found[kept] = solution / largest[kept]
            break
        kept.pop(int(np.argmin(solution)))
    return found
