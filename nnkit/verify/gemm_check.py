"""Judges a GEMM backend: random operands, the float64 product beside it, a verdict with the bound it used."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from math import gcd
from typing import Any

import numpy as np
import numpy.typing as npt

from nnkit import reference
from nnkit.contracts import Array, Device, GemmBackend
from nnkit.errors import DeviceError, NnkitError, lines_of
from nnkit.verify.bounds import gemm_bound, unit_roundoff, within
from nnkit.verify.places import describe_places
from nnkit.verify.sizes import EDGES, Size, volume

SCALINGS = ((1.0, 0.0), (2.0, 5.0), (0.7, 1.0), (0.0, 1.3))
"""alpha and beta of the cases."""

GUARD = 4096
"""Elements of poison before and after each matrix, about, in whole rows: whoever reads or writes a row or
a tile too much meets them."""

CHECKS_ACCESSES = frozenset({"virtual"})
"""Devices that report every access outside of an array."""

Floats = npt.NDArray[Any]


@dataclass(frozen=True)
class Fault:
    """One thing that was wrong with one product."""

    kind: str
    """The same for what is probably the same mistake, whatever the size."""
    size: Size
    what: str
    """One line."""
    notes: tuple[str, ...] = ()
    """What an exception showed besides: the line of a kernel's source."""

    def __str__(self) -> str:
        m, n, k = self.size
        return f"at {m} x {n} x {k}: {self.what}"


@dataclass(frozen=True)
class Case:
    """Products with the same transpositions and scaling, one of each size, and how they came out."""

    trans_a: bool
    trans_b: bool
    alpha: float
    beta: float
    faults: tuple[Fault, ...]
    """Empty where all is well."""
    largest_error: float
    """The largest |C_hat - C|, infinite where a component is not finite."""
    of_bound: float
    """The largest error as a multiple of its component's rounding bound: above 1 is a bug for certain."""
    of_estimate: float
    """The same against sqrt(K + 2) u, how errors of correct code usually grow (arXiv 1906.10465)."""

    @property
    def failures(self) -> tuple[str, ...]:
        """The faults in words, one of each kind: that at the simplest size. Empty where all is well."""
        kinds = {
            fault.kind: fault for fault in sorted(self.faults, key=lambda f: volume(f.size), reverse=True)
        }
        return tuple(str(fault) for fault in reversed(kinds.values()))


@dataclass
class _Tally:
    """What is known of a case so far."""

    faults: list[Fault] = field(default_factory=list)
    largest_error: float = 0.0
    of_bound: float = 0.0
    of_estimate: float = 0.0


@dataclass(frozen=True)
class _Operands:
    """One size's matrices in host memory, and the exact products that the cases share."""

    size: Size
    a: Floats
    """(M, K), before it is turned."""
    b: Floats
    """(K, N)."""
    c: Floats
    """(M, N), what C holds where beta is not 0."""
    product: Floats
    """A B in float64."""
    gauge: Floats
    """|A| |B| in float64."""
    guarded: bool
    """Whether poison stands around the matrices; without, the device tells of every step outside."""


def check_gemm(
    backend: GemmBackend[Array],
    device: Device[Array],
    m: int,
    n: int,
    k: int,
    dtype: npt.DTypeLike,
    seed: int,
    edges: Sequence[Size] = EDGES,
) -> list[Case]:
    """Try all four transpositions with all scalings, at the size that is asked for and at the edge sizes.

    C is (m, n), with k terms in a sum. A backend that raises fails its case.
    """
    generator = np.random.default_rng(seed)
    keys = [(ta, tb, *scaling) for ta, tb, scaling in product((False, True), (False, True), SCALINGS)]
    tallies = {key: _Tally() for key in keys}
    exact = device.name in CHECKS_ACCESSES
    for number, size in enumerate(((m, n, k), *edges)):
        operands = _operands(generator, size, np.dtype(dtype), guarded=number == 0 or not exact)
        for key, tally in tallies.items():
            _try(
                backend, device, operands, key, tally, anything_wrong=any(t.faults for t in tallies.values())
            )
    return [
        Case(*key, tuple(tally.faults), tally.largest_error, tally.of_bound, tally.of_estimate)
        for key, tally in tallies.items()
    ]


def _operands(generator: np.random.Generator, size: Size, dtype: np.dtype[Any], guarded: bool) -> _Operands:
    m, n, k = size
    a, b, c = (generator.standard_normal(shape).astype(dtype) for shape in ((m, k), (k, n), (m, n)))
    wide = a.astype(np.float64), b.astype(np.float64), np.zeros((m, n))
    return _Operands(size, a, b, c, reference.gemm(*wide), reference.gemm(*map(np.abs, wide)), guarded)


class _Placed:
    """A matrix on the device, between rows of poison that nobody may touch, or alone."""

    def __init__(self, device: Device[Array], matrix: Floats, poison: float | None):
        rows, columns = matrix.shape
        guard = 0 if poison is None else _guard_rows(columns, matrix.itemsize)
        self.whole = np.full((rows + 2 * guard, columns), poison or 0.0, matrix.dtype)
        self.inside = slice(guard, guard + rows)
        self.whole[self.inside] = matrix
        self._memory = device.upload(self.whole)
        self.array: Array = self._memory.rows(guard, guard + rows)

    def download(self) -> tuple[Floats, bool]:
        """The matrix as it is now, and whether what stands around it is as it was."""
        after = self._memory.download()
        same = after.view(np.uint8) == self.whole.view(np.uint8) if after.size else np.ones(after.shape, bool)
        return after[self.inside], bool(same[: self.inside.start].all() and same[self.inside.stop :].all())


def _guard_rows(columns: int, itemsize: int) -> int:
    """So many that the matrix begins where an allocation might, at a multiple of 256 bytes."""
    unit = 256 // itemsize
    unit //= gcd(unit, max(columns, 1))
    rows = -(-max(3, GUARD // max(columns, 1)) // unit) * unit
    return rows if rows * columns <= 1 << 20 else 3


def _try(
    backend: GemmBackend[Array],
    device: Device[Array],
    operands: _Operands,
    key: tuple[bool, bool, float, float],
    tally: _Tally,
    anything_wrong: bool,
) -> None:
    """Run one product, and add to the tally what came out."""
    *_, alpha, beta = key
    before = operands.c if beta else np.full_like(operands.c, np.nan)
    faults: list[Fault] = []

    def fault(kind: str, what: str, error: BaseException | None = None) -> None:
        notes = tuple(lines_of(error)[1:]) if isinstance(error, NnkitError) else ()
        faults.append(Fault(kind, operands.size, what, notes))

    try:
        ran = _run(backend, device, operands, key, before, operands.guarded)
    except DeviceError:
        # A device that an earlier product has broken may take nothing any more: that is told already.
        if not anything_wrong:
            raise
        return
    result = ran.result
    if ran.error is not None:
        fault(*_raised(ran.error), ran.error)
    for touched in ran.touched:
        fault(touched, touched)

    # alpha and beta as the backend sees them, rounded to its precision.
    real = operands.c.dtype.type
    alpha_seen, beta_seen = float(real(alpha)), float(real(beta))
    expected, gauge = alpha_seen * operands.product, abs(alpha_seen) * operands.gauge
    if beta:
        wide = operands.c.astype(np.float64)
        expected, gauge = expected + beta_seen * wide, gauge + abs(beta_seen) * np.abs(wide)
    terms = operands.size[2]
    difference = np.abs(result.astype(np.float64) - expected)
    bound = gemm_bound(terms, gauge, result.dtype)
    if ran.error is None and not within(difference, bound):
        fault("components break their bound", _worst(result, expected, bound, difference))
    tally.largest_error = max(tally.largest_error, _largest(difference, np.ones_like(difference)))
    tally.of_bound = max(tally.of_bound, _largest(difference, bound))
    estimate = np.sqrt(terms + 2) * unit_roundoff(result.dtype) * gauge
    tally.of_estimate = max(tally.of_estimate, _largest(difference, estimate))
    if faults and operands.guarded and device.name in CHECKS_ACCESSES and ran.error is None:
        # Without poison around them the device names the line that reads or writes outside, if one does.
        again = _run(backend, device, operands, key, before, guarded=False)
        if again.error is not None:
            faults.clear()
            fault(*_raised(again.error), again.error)
    tally.faults += faults


@dataclass(frozen=True)
class _Run:
    """What a product left."""

    result: Floats
    touched: tuple[str, ...]
    """What it wrote where it may not."""
    error: Exception | None
    """What the backend raised; there is no result then."""


def _run(
    backend: GemmBackend[Array],
    device: Device[Array],
    operands: _Operands,
    key: tuple[bool, bool, float, float],
    before: Floats,
    guarded: bool,
) -> _Run:
    """Place the operands, multiply, look. Raises DeviceError for a device that takes no operands."""
    trans_a, trans_b, alpha, beta = key
    # Poison that is read makes NaN of what it is added to, even times zero. What stands around the output is
    # no NaN: a NaN that is written there shall be seen.
    a = _Placed(device, operands.a.T if trans_a else operands.a, np.nan if guarded else None)
    b = _Placed(device, operands.b.T if trans_b else operands.b, np.nan if guarded else None)
    c = _Placed(device, before, -7.0625 if guarded else None)
    try:
        backend.gemm(a.array, b.array, c.array, alpha=alpha, beta=beta, trans_a=trans_a, trans_b=trans_b)
        device.synchronize()
    except Exception as error:
        return _Run(np.full_like(before, np.nan), (), error)
    touched = []
    result, kept = c.download()
    if not kept:
        touched.append("wrote outside its output")
    for name, operand in (("A", a), ("B", b)):
        after, kept = operand.download()
        if not np.array_equal(after, operand.whole[operand.inside]):
            touched.append(f"overwrote its input {name}")
        elif not kept:
            touched.append(f"wrote outside its input {name}")
    return _Run(result, tuple(touched), None)


def _raised(error: Exception) -> tuple[str, str]:
    """The kind of a fault that was raised, and the fault in one line."""
    line = str(error).partition("\n")[0] if isinstance(error, NnkitError) else " ".join(str(error).split())
    what = f"raised {type(error).__name__}: {line}"
    # The same place in a kernel is the same mistake, whichever thread met it; so is the same sentence.
    return re.sub(r"(?<![:\w])(0x)?[0-9a-f]*\d[0-9a-f]*\b", "#", what.partition(", block ")[0]), what


def _largest(difference: Floats, unit: Floats) -> float:
    """The largest difference in its unit; 0 / 0 is 0, and NaN counts as infinite."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = np.where(difference == 0, 0.0, difference / unit)
    return float(np.nan_to_num(ratio, nan=np.inf, posinf=np.inf).max(initial=0.0))


def _worst(result: Floats, expected: Floats, bound: Floats, difference: Floats) -> str:
    """How many components break their bound, where they are, and the one that breaks it most."""
    broken = ~(difference <= bound)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        excess = np.where(broken, np.nan_to_num(difference / bound, nan=np.inf, posinf=np.inf), 0.0)
    row, column = np.unravel_index(int(excess.argmax()), excess.shape)
    return (
        f"{int(broken.sum())} of {broken.size} components break their bound{describe_places(broken)}, the "
        f"worst C[{row},{column}]: got {result[row, column]:.9g}, expected {expected[row, column]:.9g} +- "
        f"{bound[row, column]:.3g}"
    )
