"""Times GEMM backends beside each other, in a way that is hard to cheat, even by accident.

Competitors take turns within one run, and each goes first equally often. Every repeat has other operands than
the one before, and an output full of NaN. The product is checked after the clock has stopped: a wrong one
gets no figure, nor does one that is faster than the machine can be.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nnkit.contracts import Array, Device, GemmBackend
from nnkit.errors import NnkitError
from nnkit.verify.bounds import gemm_bound, within
from nnkit.verify.roofline import peak_gflops

SETS = 3
"""Sets of operands that the repeats use in turn."""

WARM_UP = 0.15
"""Seconds that a competitor multiplies other operands before each repeat. Until then the threads of the one
before have left the cores (OpenBLAS lets them spin for some 60 ms), and its own are awake."""

ROWS = 16
"""Rows of a product that are checked component by component; each repeat draws other ones."""


class UnbelievableError(NnkitError):
    """The figure cannot be true: the product was wrong, or faster than the machine can be."""

    exit_status = 1


@dataclass(frozen=True)
class Competitor:
    """A backend, and a device that it supports."""

    backend: GemmBackend[Array]
    device: Device[Array]


@dataclass(frozen=True)
class Speed:
    """The times and the speed of a competitor."""

    competitor: Competitor
    seconds: tuple[float, ...]
    """The time of each repeat."""
    gflops: float
    """2 M N K floating-point operations over the median time, in 1e9 a second."""


@dataclass(frozen=True)
class _Operands:
    """One set of operands in host memory: A (M, K) and B (K, N)."""

    a: npt.NDArray[Any]
    b: npt.NDArray[Any]


@dataclass(frozen=True)
class _Placed:
    """The same on a competitor's device, and C (M, N)."""

    a: Array
    b: Array
    c: Array


def bench_gemm(
    competitors: Sequence[Competitor],
    m: int,
    n: int,
    k: int,
    dtype: npt.DTypeLike,
    repeats: int,
    seed: int = 0,
) -> list[Speed]:
    """Time C <- A B, C (m, n), with k terms in a sum, once for each competitor in each of `repeats` rounds.

    A round that does not count comes first: it compiles the kernels. Sizes and repeats are at least 1.
    Raises UnbelievableError for a wrong product, or a figure above `peak_gflops`.
    """
    generator = np.random.default_rng(seed)
    operands = [
        _Operands(
            generator.standard_normal((m, k)).astype(dtype), generator.standard_normal((k, n)).astype(dtype)
        )
        for _ in range(SETS)
    ]
    places = [[_place(competitor, one, dtype) for one in operands] for competitor in competitors]
    seconds: list[list[float]] = [[] for _ in competitors]
    poison = np.full((m, n), np.nan, dtype)
    for repeat in range(-1, repeats):
        which = repeat % SETS
        rows = generator.choice(m, min(m, ROWS), replace=False)
        for turn in range(len(competitors)):
            index = (turn + repeat) % len(competitors)
            place = places[index]
            took, product = _once(competitors[index], place[which], place[(which + 1) % SETS], poison)
            _judge(competitors[index], operands[which], product, rows)
            if repeat >= 0:
                seconds[index].append(took)
    return [
        _speed(competitor, times, 2.0 * m * n * k, dtype)
        for competitor, times in zip(competitors, seconds, strict=True)
    ]


def _place(competitor: Competitor, operands: _Operands, dtype: npt.DTypeLike) -> _Placed:
    upload, empty = competitor.device.upload, competitor.device.empty
    shape = operands.a.shape[0], operands.b.shape[1]
    return _Placed(upload(operands.a), upload(operands.b), empty(shape, dtype))


def _once(
    competitor: Competitor, placed: _Placed, others: _Placed, poison: npt.NDArray[Any]
) -> tuple[float, npt.NDArray[Any]]:
    """Seconds of one product, and the product (M, N); `others` are the operands to warm up with."""
    placed.c.write(poison)
    until = time.monotonic() + WARM_UP
    while time.monotonic() < until:
        competitor.backend.gemm(others.a, others.b, others.c)
        competitor.device.synchronize()
    begun = time.perf_counter()
    competitor.backend.gemm(placed.a, placed.b, placed.c)
    competitor.device.synchronize()
    return time.perf_counter() - begun, placed.c.download()


def _judge(
    competitor: Competitor, operands: _Operands, product: npt.NDArray[Any], rows: npt.NDArray[np.intp]
) -> None:
    """Raise UnbelievableError for a wrong product.

    The given rows are checked component by component, all rows by their sums: with 1 a vector of ones,
    |C 1 - A (B 1)| <= the sums of the rows' bounds (after Freivalds, Probabilistic Machines Can Use Less
    Running Time, 1977, whose vectors are random).
    """
    a, b, c = (part.astype(np.float64) for part in (operands.a, operands.b, product))
    k, n = b.shape
    some, wide = np.abs(c[rows] - a[rows] @ b), np.abs(a[rows]) @ np.abs(b)
    sums, magnitude = np.abs(c.sum(axis=1) - a @ b.sum(axis=1)), np.abs(a) @ np.abs(b).sum(axis=1)
    # Summing n columns in float64 has a rounding error as well.
    allowed = gemm_bound(k, magnitude, product.dtype) + gemm_bound(k + n, magnitude, np.float64)
    if not (within(some, gemm_bound(k, wide, product.dtype)) and within(sums, allowed)):
        raise UnbelievableError(
            f"backend {competitor.backend.name!r} on {competitor.device.name} computed a wrong product: "
            f"no speed is given; nnkit gemm-check says what is wrong"
        )


def _speed(competitor: Competitor, times: Sequence[float], operations: float, dtype: npt.DTypeLike) -> Speed:
    gflops = operations / max(statistics.median(times), 1e-12) / 1e9
    peak = peak_gflops(competitor.device, dtype)
    if not gflops <= peak:
        raise UnbelievableError(
            f"backend {competitor.backend.name!r} on {competitor.device.name} seems to make {gflops:.4g} "
            f"GFLOP/s, but this machine makes {peak:.4g} at most: the work was not done, or not while the "
            f"clock ran"
        )
    return Speed(competitor, tuple(times), gflops)
