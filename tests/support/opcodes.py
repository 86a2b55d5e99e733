"""What the per-opcode tests of the PTX machine share: kernels of many instructions over columns of operands.

Everything is bits: operand columns and result columns are unsigned NumPy arrays, whatever the PTX type. A
model is a function of Python numbers, one row at a time; nothing of nnkit.vm is used for them.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnkit.device.virtual import VirtualDevice

Bits = npt.NDArray[Any]

FORMS_A_KERNEL = 48
"""Compiling takes longer than in proportion to the instructions, and some 30 ms for a kernel by itself."""

LANES = 64
"""Threads of a block: whole vectors at every width."""


def bits_of(type_: str) -> int:
    """The width of a PTX type's column: 8-bit values live in 16 bits, predicates (0 or not) in 32."""
    return 32 if type_ == "pred" else max(int(type_.lstrip("bsuf")), 16)


@dataclass(frozen=True)
class Case:
    """One form of an instruction, and its model.

    The model gets an operand of a signed type as a signed number, a predicate as a bool, every other as its
    bits; it returns the result's bits, of which those beyond the type's width are ignored. `text` says how
    the form is written where that is not "name result, operands": {0} is the result, {1}, ... the operands.
    """

    name: str
    result: str
    given: tuple[str, ...]
    model: Callable[..., int]
    text: str = ""

    def written(self, names: Sequence[str]) -> str:
        """The statements with these registers."""
        text = self.text or f"{self.name} " + ", ".join(f"{{{index}}}" for index in range(len(names))) + ";"
        return text.format(*names)

    @property
    def signature(self) -> tuple[int, ...]:
        """The widths of the operand columns; 1 for a predicate."""
        return tuple(1 if type_ == "pred" else bits_of(type_) for type_ in self.given)

    def expected(self, columns: Sequence[Bits]) -> Bits:
        """The model's results."""
        values = [_decoded(column, type_) for column, type_ in zip(columns, self.given, strict=True)]
        mask = (1 << bits_of(self.result)) - 1
        found = [int(self.model(*row)) & mask for row in zip(*values, strict=True)]
        return np.array(found, f"u{bits_of(self.result) // 8}")


@dataclass(frozen=True)
class Way:
    """How a test runs: the vector's width, and whether all lanes hold the same operands.

    For uniform operands the machine has scalar code, for others vector code: both are tested.
    """

    width: int = 16
    uniform: bool = False


VARYING, UNIFORM, WIDE, NARROW = Way(), Way(uniform=True), Way(32), Way(1)
EVERY_WAY = (VARYING, UNIFORM, WIDE, NARROW)


@cache
def device(width: int) -> VirtualDevice:
    """A device of that vector width, one for all tests."""
    return VirtualDevice(width=width, threads=1)


def check(
    cases: Iterable[Case],
    columns_of: Callable[[tuple[int, ...]], list[Bits]],
    ways: Sequence[Way] = EVERY_WAY,
    on: Callable[[int], VirtualDevice] = device,
) -> None:
    """Assert that every case gives what its model says, in every way; operands come by their widths."""
    groups: dict[tuple[int, ...], list[Case]] = {}
    for case in cases:
        groups.setdefault(case.signature, []).append(case)
    wrong = []
    for signature, group in groups.items():
        columns = columns_of(signature)
        expected = [case.expected(columns) for case in group]
        for way in ways:
            found = run(group, columns, way, on(way.width))
            for case, want, got in zip(group, expected, found, strict=True):
                both_nan = _is_nan(got, case.result) & _is_nan(want, case.result)
                bad = np.flatnonzero((got != want) & ~both_nan)
                if bad.size:
                    row = bad[0]
                    operands = ", ".join(f"{column[row]:#x}" for column in columns)
                    values = f"{want[row]:#x}, not {got[row]:#x}"
                    wrong.append(f"{case.name} ({operands}) is {values}; {way}, {bad.size} rows")
    assert not wrong, "\n".join(wrong)


def run(cases: Sequence[Case], columns: Sequence[Bits], way: Way, machine: VirtualDevice) -> list[Bits]:
    """Every case's results on the columns of operands, which they share; a row is a lane, or a block."""
    rows = len(columns[0])
    padded = [np.concatenate([column, column[:1].repeat(-rows % LANES)]) for column in columns]
    count = len(padded[0])
    grid, block = (count, 1) if way.uniform else (count // LANES, LANES)
    arrays = [machine.upload(column) for column in padded]
    found: list[Bits] = []
    for start in range(0, len(cases), FORMS_A_KERNEL):
        some = cases[start : start + FORMS_A_KERNEL]
        outputs = {}
        for bits in (16, 32, 64):
            results = sum(bits_of(case.result) == bits for case in some)
            outputs[bits] = machine.zeros((results, count), f"u{bits // 8}")
        kernel = machine.load_ptx(_kernel(some, count, way.uniform))["k"]
        kernel.launch(grid, block, (*arrays, *outputs.values()))
        downloads = {bits: iter(output.download()[:, :rows]) for bits, output in outputs.items()}
        found += [next(downloads[bits_of(case.result)]) for case in some]
    return found


def _kernel(cases: Sequence[Case], rows: int, uniform: bool) -> str:
    """PTX that applies every case to the operands of one row."""
    given = cases[0].given
    inputs = [f"in{k}" for k in range(len(given))]
    outputs = {16: "out16", 32: "out32", 64: "out64"}
    parameters = ", ".join(f".param .u64 {name}" for name in (*inputs, *outputs.values()))
    lines = [
        ".version 8.8\n.target sm_100\n.address_size 64",
        f".visible .entry k({parameters})",
        "{",
        ".reg .b32 %row, %tid; .reg .pred %p, %p<8>;",
        "mov.u32 %row, %ctaid.x;",
    ]
    if not uniform:
        lines.append(f"mov.u32 %tid, %tid.x; mad.lo.s32 %row, %row, {LANES}, %tid;")
    for k, type_ in enumerate(given):
        lines += [_address(inputs[k], bits_of(type_)), f".reg .b{bits_of(type_)} %x{k};"]
        lines.append(f"ld.global.b{bits_of(type_)} %x{k}, [%in{k}];")
        if type_ == "pred":
            lines.append(f"setp.ne.u32 %p{k}, %x{k}, 0;")
    lines += [_address(name, bits) for bits, name in outputs.items()]
    names = [f"%p{k}" if type_ == "pred" else f"%x{k}" for k, type_ in enumerate(given)]
    place = dict.fromkeys(outputs, 0)
    for case in cases:
        bits, is_predicate = bits_of(case.result), case.result == "pred"
        lines += ["{", f".reg .b{bits} %d;", case.written(["%p" if is_predicate else "%d", *names])]
        if is_predicate:
            lines.append("selp.b32 %d, 1, 0, %p;")
        lines += [f"st.global.b{bits} [%{outputs[bits]}+{place[bits]}], %d;", "}"]
        place[bits] += rows * bits // 8
    return "\n".join([*lines, "ret;", "}"])


def _address(name: str, bits: int) -> str:
    register = f".reg .b64 %{name}; ld.param.u64 %{name}, [{name}];"
    return f"{register} mad.wide.s32 %{name}, %row, {bits // 8}, %{name};"


def _decoded(column: Bits, type_: str) -> list[Any]:
    if type_ == "pred":
        return [bool(value) for value in column]
    bits = int(type_[1:])
    values = [int(value) & ((1 << bits) - 1) for value in column]
    if type_[0] == "s":
        return [value - (1 << bits) if value >> (bits - 1) else value for value in values]
    return values


def _is_nan(bits: Bits, type_: str) -> npt.NDArray[np.bool_]:
    if type_ not in FORMATS:
        return np.zeros(len(bits), bool)
    format_ = FORMATS[type_]
    found: npt.NDArray[np.bool_] = (bits & bits.dtype.type(format_.sign - 1)) > format_.infinity
    return found


# -- floating point, exactly ---------------------------------------------------------------------------------


class Finite(NamedTuple):
    """The number m * 2^e, not zero."""

    m: int
    e: int


Exact = Finite | float
"""An exact result; a float where it is a zero, an infinity or NaN."""

CANCELLED = "cancelled"
"""A sum of opposite numbers: a zero whose sign the rounding mode decides."""


@dataclass(frozen=True)
class Format:
    """A binary format of IEEE 754."""

    bits: int
    precision: int

    @property
    def sign(self) -> int:
        """The sign bit."""
        return 1 << (self.bits - 1)

    @property
    def infinity(self) -> int:
        """Infinity's bits."""
        return self.sign - (1 << (self.precision - 1))

    @property
    def lowest(self) -> int:
        """The exponent of the smallest denormal."""
        return 3 - (1 << (self.bits - self.precision - 1)) - self.precision

    def is_denormal(self, bits: int) -> bool:
        """Whether it is one, and no zero."""
        return 0 < bits & ~self.sign < 1 << (self.precision - 1)

    def flushed(self, bits: int) -> int:
        """A zero of the same sign for a denormal."""
        return bits & self.sign if self.is_denormal(bits) else bits

    def value(self, bits: int) -> Exact:
        """The number that the bits stand for."""
        sign, size = (-1 if bits & self.sign else 1), bits & ~self.sign
        if size >= self.infinity:
            return sign * math.inf if size == self.infinity else math.nan
        exponent, fraction = divmod(size, 1 << (self.precision - 1))
        if exponent:
            fraction += 1 << (self.precision - 1)
        return Finite(sign * fraction, self.lowest + max(exponent - 1, 0)) if fraction else sign * 0.0

    def rounded(self, exact: Exact | str, mode: str) -> int:
        """The bits of the nearest number in the mode's direction: "rn" (ties to even), "rz", "rm" or "rp"."""
        if exact == CANCELLED:
            return self.sign if mode == "rm" else 0
        if not isinstance(exact, Finite):
            assert isinstance(exact, float)
            size = self.infinity + 1 if math.isnan(exact) else self.infinity if exact else 0
            return size | (self.sign if math.copysign(1, exact) < 0 else 0)
        size, negative = abs(exact.m), exact.m < 0
        away = mode == ("rm" if negative else "rp")
        unit = max(exact.e + size.bit_length() - self.precision, self.lowest)
        shift = unit - exact.e
        kept, rest = (size << -shift, 0) if shift <= 0 else (size >> shift, size & ((1 << shift) - 1))
        half = 1 << shift >> 1 if shift > 0 else 1
        if (away and rest) or (mode == "rn" and (rest > half or (rest == half and kept & 1))):
            kept += 1
        # The hidden bit counts the exponent up by one, and so does a carry out of the fraction.
        found = kept + ((unit - self.lowest) << (self.precision - 1))
        if found >= self.infinity:
            found = self.infinity if mode == "rn" or away else self.infinity - 1
        return found | (self.sign if negative else 0)


FORMATS = {"f32": Format(32, 24), "f64": Format(64, 53)}


def exact_sum(a: Exact, b: Exact) -> Exact | str:
    """a + b."""
    if isinstance(a, Finite) and isinstance(b, Finite):
        e = min(a.e, b.e)
        m = (a.m << (a.e - e)) + (b.m << (b.e - e))
        return Finite(m, e) if m else CANCELLED
    if isinstance(a, Finite) or isinstance(b, Finite):
        number, other = (a, b) if isinstance(a, Finite) else (b, a)
        return other if other else number
    opposite = a == b == 0 and math.copysign(1, a) != math.copysign(1, b)
    return CANCELLED if opposite else a + b


def exact_product(a: Exact, b: Exact) -> Exact:
    """a b."""
    if isinstance(a, Finite) and isinstance(b, Finite):
        return Finite(a.m * b.m, a.e + b.e)
    return _sign_only(a) * _sign_only(b)


def exact_quotient(a: Exact, b: Exact) -> Exact:
    """a / b; the last bit of a long quotient says whether more would follow."""
    if isinstance(a, Finite) and isinstance(b, Finite):
        whole, rest = divmod(abs(a.m) << 160, abs(b.m))
        size = whole << 1 | bool(rest)
        return Finite(size if (a.m < 0) == (b.m < 0) else -size, a.e - b.e - 161)
    x, y = _sign_only(a), _sign_only(b)
    return x / y if y else x * math.copysign(math.inf, y)


def exact_root(a: Exact) -> Exact:
    """The square root, its last bit as in a quotient."""
    if isinstance(a, Finite):
        if a.m < 0:
            return math.nan
        m, e = (a.m << 160, a.e - 160) if a.e % 2 == 0 else (a.m << 161, a.e - 161)
        root = math.isqrt(m)
        return Finite(root << 1 | (root * root != m), e // 2 - 1)
    return a if a >= 0 else math.nan


def _sign_only(value: Exact) -> float:
    """For products and quotients with zeros and infinities any finite number will do."""
    return math.copysign(1, value.m) if isinstance(value, Finite) else value
