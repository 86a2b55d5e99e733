"""Checks a GEMM backend: random operands, compared with the float64 product under a rounding error bound."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from math import gcd
from typing import Any, Generic

import numpy as np
import numpy.typing as npt

from nnkit import reference
from nnkit.contracts import Device, GemmBackend
from nnkit.contracts.devices import ArrayT
from nnkit.errors import DeviceError, NnkitError, lines_of
from nnkit.verify.bounds import gemm_bound, unit_roundoff, within
from nnkit.verify.places import describe_places
from nnkit.verify.sizes import EDGES, Size, volume

SCALINGS = ((1.0, 0.0), (2.0, 5.0), (0.7, 1.0), (0.0, 1.3))
"""alpha and beta of the cases."""

GUARD = 4096
"""About how many elements of poison stand before and after each matrix, in whole rows. A kernel that reads or
writes a row or a tile too much touches them."""

CHECKS_ACCESSES = frozenset({"virtual"})
"""The devices that report every access outside of an array."""

Floats = npt.NDArray[Any]


@dataclass(frozen=True)
class Fault:
    """One thing that was wrong with one product."""

    kind: str
    """The same text for faults that are probably the same mistake, at whatever size."""
    size: Size
    what: str
    """One line."""
    notes: tuple[str, ...] = ()
    """The notes of an exception: the line of a kernel's source."""

    def __str__(self) -> str:
        m, n, k = self.size
        return f"at {m} x {n} x {k}: {self.what}"


@dataclass(frozen=True)
class Case:
    """The results of the products with the same transpositions, alpha and beta, one of each size."""

    trans_a: bool
    trans_b: bool
    alpha: float
    beta: float
    faults: tuple[Fault, ...]
    """Empty where all is well."""
    largest_error: float
    """The largest |computed - exact|; infinite if a component is not finite."""
    of_bound: float
    """The largest error as a multiple of its component's bound: above 1 is a bug for certain."""
    of_estimate: float
    """The same as a multiple of sqrt(K + 2) u, as errors of correct code usually grow (Higham and Mary, A New
    Approach to Probabilistic Rounding Error Analysis, 2019)."""

    @property
    def failures(self) -> tuple[str, ...]:
        """The faults in words, of each kind the one at the simplest size. Empty where all is well."""
        kinds = {
            fault.kind: fault for fault in sorted(self.faults, key=lambda f: volume(f.size), reverse=True)
        }
        return tuple(str(fault) for fault in reversed(kinds.values()))


@dataclass
class _Tally:
    """The results of a case so far."""

    faults: list[Fault] = field(default_factory=list)
    largest_error: float = 0.0
    of_bound: float = 0.0
    of_estimate: float = 0.0


@dataclass(frozen=True)
class _Operands:
    """One size's matrices in host memory, and the exact products that the cases share."""

    size: Size
    a: Floats
    """(M, K), not transposed."""
    b: Floats
    """(K, N), not transposed."""
    c: Floats
    """(M, N), the content of C before the product where beta is not 0."""
    product: Floats
    """A B in float64."""
    magnitude: Floats
    """|A| |B| in float64."""
    guarded: bool
    """Whether poison stands around the matrices. If not, the device reports every access outside."""


def check_gemm(
    backend: GemmBackend[ArrayT],
    device: Device[ArrayT],
    m: int,
    n: int,
    k: int,
    dtype: npt.DTypeLike,
    seed: int,
    edges: Sequence[Size] = EDGES,
) -> list[Case]:
    """Try all four transpositions with all SCALINGS, at the size that is asked for and at the edge sizes.

    C is (m, n), with k terms in a sum. An exception of the backend is a fault of its case.
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


class _Placed(Generic[ArrayT]):
    """A matrix on the device, between rows of poison that nobody may touch, or alone."""

    def __init__(self, device: Device[ArrayT], matrix: Floats, poison: float | None):
        rows, columns = matrix.shape
        guard = 0 if poison is None else _guard_rows(columns, matrix.itemsize)
        self.whole = np.full((rows + 2 * guard, columns), poison or 0.0, matrix.dtype)
        self.inside = slice(guard, guard + rows)
        self.whole[self.inside] = matrix
        self._memory = device.upload(self.whole)
        self.array: ArrayT = self._memory.rows(guard, guard + rows)

    def download(self) -> tuple[Floats, bool]:
        """The matrix as it is now, and whether the poison around it is unchanged."""
        after = self._memory.download()
        same = after.view(np.uint8) == self.whole.view(np.uint8) if after.size else np.ones(after.shape, bool)
        return after[self.inside], bool(same[: self.inside.start].all() and same[self.inside.stop :].all())


def _guard_rows(columns: int, itemsize: int) -> int:
    """Rows of poison before a matrix. It then begins at a multiple of 256 bytes, as an allocation would."""
    unit = 256 // itemsize
    unit //= gcd(unit, max(columns, 1))
    rows = -(-max(3, GUARD // max(columns, 1)) // unit) * unit
    return rows if rows * columns <= 1 << 20 else 3


def _try(
    backend: GemmBackend[ArrayT],
    device: Device[ArrayT],
    operands: _Operands,
    key: tuple[bool, bool, float, float],
    tally: _Tally,
    anything_wrong: bool,
) -> None:
    """Run one product, and add the results to the tally."""
    *_, alpha, beta = key
    before = operands.c if beta else np.full_like(operands.c, np.nan)
    faults: list[Fault] = []

    def fault(kind: str, what: str, error: BaseException | None = None) -> None:
        notes = tuple(lines_of(error)[1:]) if isinstance(error, NnkitError) else ()
        faults.append(Fault(kind, operands.size, what, notes))

    try:
        ran = _run(backend, device, operands, key, before, operands.guarded)
    except DeviceError:
        # An earlier product may have broken the device: then that product's fault is reported already.
        if not anything_wrong:
            raise
        return
    result = ran.result
    if ran.error is not None:
        fault(*_raised(ran.error), ran.error)
    for touched in ran.touched:
        fault(touched, touched)

    # The backend gets alpha and beta rounded to its element type.
    real = operands.c.dtype.type
    alpha_seen, beta_seen = float(real(alpha)), float(real(beta))
    expected, magnitude = alpha_seen * operands.product, abs(alpha_seen) * operands.magnitude
    if beta:
        wide = operands.c.astype(np.float64)
        expected, magnitude = expected + beta_seen * wide, magnitude + abs(beta_seen) * np.abs(wide)
    terms = operands.size[2]
    difference = np.abs(result.astype(np.float64) - expected)
    bound = gemm_bound(terms, magnitude, result.dtype)
    if ran.error is None and not within(difference, bound):
        fault("components break their bound", _worst(result, expected, bound, difference))
    tally.largest_error = max(tally.largest_error, _largest(difference, np.ones_like(difference)))
    tally.of_bound = max(tally.of_bound, _largest(difference, bound))
    estimate = np.sqrt(terms + 2) * unit_roundoff(result.dtype) * magnitude
    tally.of_estimate = max(tally.of_estimate, _largest(difference, estimate))
    if faults and operands.guarded and device.name in CHECKS_ACCESSES and ran.error is None:
        # Run again without poison: if a line reads or writes outside, the device names it.
        again = _run(backend, device, operands, key, before, guarded=False)
        if again.error is not None:
            faults.clear()
            fault(*_raised(again.error), again.error)
    tally.faults += faults


@dataclass(frozen=True)
class _Run:
    """The outcome of one product."""

    result: Floats
    touched: tuple[str, ...]
    """Where it wrote though it must not, in words."""
    error: Exception | None
    """The backend's exception; `result` is full of NaN then."""


def _run(
    backend: GemmBackend[ArrayT],
    device: Device[ArrayT],
    operands: _Operands,
    key: tuple[bool, bool, float, float],
    before: Floats,
    guarded: bool,
) -> _Run:
    """Upload the operands, multiply, compare. Raises DeviceError if the device cannot take them."""
    trans_a, trans_b, alpha, beta = key
    # Around the inputs stand NaNs: a sum that reads one becomes NaN, even if it is multiplied by zero. Around
    # the output stands a number, so that a NaN written there is noticed.
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
    """An exception as a fault: its kind, and itself in one line."""
    line = str(error).partition("\n")[0] if isinstance(error, NnkitError) else " ".join(str(error).split())
    what = f"raised {type(error).__name__}: {line}"
    # The same place in a kernel is the same mistake, whichever thread reports it. So is the same message
    # with other numbers.
    return re.sub(r"(?<![:\w])(0x)?[0-9a-f]*\d[0-9a-f]*\b", "#", what.partition(", block ")[0]), what


def _largest(difference: Floats, unit: Floats) -> float:
    """The largest difference / unit, where 0 / 0 is 0 and NaN counts as infinite."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = np.where(difference == 0, 0.0, difference / unit)
    return float(np.nan_to_num(ratio, nan=np.inf, posinf=np.inf).max(initial=0.0))


def _worst(result: Floats, expected: Floats, bound: Floats, difference: Floats) -> str:
    """In words: how many components break their bound, where, and the one that breaks it most."""
    broken = ~(difference <= bound)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        excess = np.where(broken, np.nan_to_num(difference / bound, nan=np.inf, posinf=np.inf), 0.0)
    row, column = np.unravel_index(int(excess.argmax()), excess.shape)
    return (
        f"{int(broken.sum())} of {broken.size} components break their bound{describe_places(broken)}, the "
        f"worst C[{row},{column}]: got {result[row, column]:.9g}, expected {expected[row, column]:.9g} +- "
        f"{bound[row, column]:.3g}"
    )
