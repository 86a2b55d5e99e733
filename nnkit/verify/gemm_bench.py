"""How fast is a GEMM backend, beside others, measured so that the figures can be believed.

The competitors take turns within one run, each goes first equally often, and every repeat has other operands
than the one before and an output full of NaN. What came out is judged after the clock has stopped: a wrong
product has no speed, and neither has one that is faster than the machine can be.
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
"""Different operands that the repeats go through."""

RUN_UP = 0.15
"""Seconds that a competitor multiplies other operands before each repeat: until the threads of the one before
have left the cores, which OpenBLAS lets spin for some 60 ms, and its own are awake."""

ROWS = 16
"""Rows of a product that are compared component by component, others in every repeat."""


class UnbelievableError(NnkitError):
    """What was measured is no speed: the product was wrong, or faster than the machine can be."""

    exit_status = 1


@dataclass(frozen=True)
class Competitor:
    """A backend and a device that it serves."""

    backend: GemmBackend[Array]
    device: Device[Array]


@dataclass(frozen=True)
class Speed:
    """What a competitor reached."""

    competitor: Competitor
    seconds: tuple[float, ...]
    """Of every repeat."""
    gflops: float
    """Of the median repeat: 2 M N K operations in its time."""


@dataclass(frozen=True)
class _Operands:
    """One set of operands in host memory, A (M, K) and B (K, N), and its place on a competitor's device."""

    a: npt.NDArray[Any]
    b: npt.NDArray[Any]


@dataclass(frozen=True)
class _Placed:
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

    Before the rounds everybody multiplies once, which compiles kernels. Sizes and repeats are at least 1.
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
    """Seconds of one product, and the product; `others` are the operands of the run-up."""
    placed.c.write(poison)
    until = time.monotonic() + RUN_UP
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
    """Some rows component by component, all of them by their sums: |C 1 - A (B 1)| <= the rows' bounds."""
    a, b, c = (part.astype(np.float64) for part in (operands.a, operands.b, product))
    k, n = b.shape
    some, wide = np.abs(c[rows] - a[rows] @ b), np.abs(a[rows]) @ np.abs(b)
    sums, gauge = np.abs(c.sum(axis=1) - a @ b.sum(axis=1)), np.abs(a) @ np.abs(b).sum(axis=1)
    # The sums are taken in float64, over n columns: that rounds as well.
    allowed = gemm_bound(k, gauge, product.dtype) + gemm_bound(k + n, gauge, np.float64)
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
