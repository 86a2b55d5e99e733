"""What is known of a register across the lanes of a vector: the lattice that makes vector code fast.

    uniform   every lane holds the same value: kept as one scalar
    pattern   lane l holds base + pattern[l], where base is lane 0's value: kept as one scalar
    likely    the same, but only where a run-time flag says so, beside the exact vector: what an index
              becomes when it is widened to 64 bits and nobody can prove that it did not wrap before
    varying   anything: kept as a vector

Integers are taken modulo 2^bits, so sums, differences and products with constants keep a pattern exactly,
wherever they wrap. Everything else needs the range and the divisor of the base, which are kept with it (as a
signed number).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from nnkit.ptx.ir import SIZES, Instruction
from nnkit.vm.forms.form import Meaning, Pure
from nnkit.vm.text.layout import WINDOWS

INTEGERS = frozenset(f"{kind}{bits}" for kind in "bsu" for bits in (8, 16, 32, 64))

Kind = Literal["uniform", "pattern", "likely", "varying"]


@dataclass(frozen=True, slots=True)
class Shape:
    """One register's shape; `low`, `high` and `multiple` are facts about the base, as a signed number.

    A multiple of 0 says that the base is 0.
    """

    kind: Kind
    pattern: tuple[int, ...] = ()
    low: int = -(1 << 63)
    high: int = (1 << 63) - 1
    multiple: int = 1

    @property
    def constant(self) -> int | None:
        """The value, where it is one known number."""
        return self.low if self.kind == "uniform" and self.low == self.high else None

    @property
    def is_scalar(self) -> bool:
        """Whether a scalar alone holds it."""
        return self.kind in ("uniform", "pattern")

    @property
    def least(self) -> int:
        """The smallest value in any lane, if nothing wraps."""
        return self.low + min(self.pattern, default=0)

    @property
    def most(self) -> int:
        """The largest value in any lane, if nothing wraps."""
        return self.high + max(self.pattern, default=0)


VARYING = Shape("varying")
UNIFORM = Shape("uniform")


def signed(value: int, bits: int) -> int:
    """The value modulo 2^bits as a signed number."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def made(bits: int, low: int, high: int, multiple: int, pattern: tuple[int, ...] = ()) -> Shape:
    """A uniform or pattern shape; a range that leaves the type's becomes the whole of it."""
    pattern = tuple(signed(step, bits) for step in pattern)
    if not any(pattern):
        pattern = ()
    smallest, largest = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    if low < smallest or high > largest:
        low, high = smallest, largest
        # Modulo 2^bits only the powers of two survive.
        multiple = math.gcd(multiple, 1 << bits)
    return Shape("pattern" if pattern else "uniform", pattern, low, high, multiple)


def constant(value: int, bits: int) -> Shape:
    """A known number."""
    value = signed(value, bits)
    return Shape("uniform", (), value, value, abs(value))


def of_type(type_: str) -> Shape:
    """A uniform value of which only the type is known.

    Below 32 bits the register may be wider than the type: what is not signed is filled up with zeros there,
    and a sign where it is not. Registers have at least 16 bits.
    """
    bits = 8 * SIZES.get(type_, 8)
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    if type_[:1] in ("b", "u") and bits < 32:
        low, high = 0 if bits < 16 else low, (1 << bits) - 1
    return Shape("uniform", (), low, high, 1)


def extended(type_: str, register: str) -> Shape:
    """A uniform value of which only the type is known, in a register whose own type may be wider.

    What is not signed is filled up with zeros there: read as a signed number, it is never negative.
    """
    if type_[0] != "s" and SIZES[type_] < SIZES[register]:
        return Shape("uniform", (), 0, (1 << 8 * SIZES[type_]) - 1, 1)
    return of_type(type_)


def join(a: Shape | None, b: Shape) -> Shape:
    """The least shape that covers both."""
    if a is None or a == b:
        return b
    if a.kind == "varying" or b.kind == "varying" or a.pattern != b.pattern:
        return VARYING
    kind: Kind = "likely" if "likely" in (a.kind, b.kind) else a.kind
    low, high = min(a.low, b.low), max(a.high, b.high)
    # Two different bases share the divisors of both and of their distance from 0.
    return Shape(kind, a.pattern, low, high, math.gcd(a.multiple, b.multiple))


def widened(shape: Shape, bits: int) -> Shape:
    """The same without its range: what makes the search for a fixed point end."""
    return Shape(shape.kind, shape.pattern, -(1 << (bits - 1)), (1 << (bits - 1)) - 1, shape.multiple)


def transfer(item: Instruction, form: Pure, given: list[Shape], width: int) -> Shape:
    """The shape of a pure instruction's result, from those of its sources."""
    rule = _RULES.get(form.meaning)
    if rule is not None and item.type in INTEGERS:
        found = rule(item, given, width)
        if found is not None:
            return found
    if all(shape.kind == "uniform" for shape in given):
        return of_type(form.types(item)[0])
    return VARYING


def _lanes(shape: Shape, width: int) -> tuple[int, ...]:
    return shape.pattern or (0,) * width


def _combined(kinds: list[Shape]) -> Kind | None:
    """Scalar if all are; likely if some are likely and none varies."""
    if any(shape.kind == "varying" for shape in kinds):
        return None
    return "likely" if any(shape.kind == "likely" for shape in kinds) else "uniform"


def _with(kind: Kind, shape: Shape) -> Shape:
    """A likely shape keeps its pattern, but what was known of the base still holds where the flag does.

    One whose steps cancelled is worth no flag.
    """
    if kind != "likely":
        return shape
    if not shape.pattern:
        return VARYING
    return Shape("likely", shape.pattern, shape.low, shape.high, shape.multiple)


def _sum(a: Shape, b: Shape, bits: int, width: int, sign: int = 1) -> Shape | None:
    kind = _combined([a, b])
    if kind is None:
        return None
    pattern = tuple(x + sign * y for x, y in zip(_lanes(a, width), _lanes(b, width), strict=True))
    low, high = (a.low + b.low, a.high + b.high) if sign > 0 else (a.low - b.high, a.high - b.low)
    return _with(kind, made(bits, low, high, math.gcd(a.multiple, b.multiple), pattern))


def _product(a: Shape, b: Shape, bits: int, width: int) -> Shape | None:
    kind = _combined([a, b])
    if kind is None:
        return None
    if a.kind != "uniform":
        a, b = b, a
    if a.kind != "uniform":
        return None
    if b.kind != "uniform" and a.constant is None:
        return None
    corners = [x * y for x in (a.low, a.high) for y in (b.low, b.high)]
    pattern = tuple((a.constant or 0) * step for step in b.pattern)
    return _with(kind, made(bits, min(corners), max(corners), a.multiple * b.multiple, pattern))


def _bits(item: Instruction) -> int:
    return 8 * SIZES[item.type]


def wraps(shape: Shape, bits: int, is_signed: bool) -> bool:
    """Whether some lane's value might leave the type's range, so that widening it is no longer linear."""
    if is_signed:
        return shape.least < -(1 << (bits - 1)) or shape.most > (1 << (bits - 1)) - 1
    # An unsigned value of the upper half has a negative base here.
    return bool(shape.pattern) and (shape.least < 0 or shape.most >= 1 << (bits - 1))


def _widen(shape: Shape, from_bits: int, is_signed: bool, to_bits: int) -> Shape | None:
    """Sign or zero extension."""
    if shape.kind == "varying":
        return None
    low, high, multiple = shape.low, shape.high, shape.multiple
    if not is_signed and low < 0:
        low, high, multiple = 0, (1 << from_bits) - 1, math.gcd(multiple, 1 << from_bits)
    wide = made(to_bits, low, high, multiple, shape.pattern)
    if shape.kind == "likely" or (shape.kind == "pattern" and wraps(shape, from_bits, is_signed)):
        return _with("likely", wide)
    return wide


def _added(item: Instruction, given: list[Shape], width: int) -> Shape | None:
    return _sum(given[0], given[1], _bits(item), width)


def _subtracted(item: Instruction, given: list[Shape], width: int) -> Shape | None:
    return _sum(given[0], given[1], _bits(item), width, -1)


def _multiplied(item: Instruction, given: list[Shape], width: int) -> Shape | None:
    return _product(given[0], given[1], _bits(item), width)


def _multiplied_and_added(item: Instruction, given: list[Shape], width: int) -> Shape | None:
    product = _multiplied(item, given, width)
    return _sum(product, given[2], _bits(item), width) if product else None


def _multiplied_wide(item: Instruction, given: list[Shape], width: int) -> Shape | None:
    bits = _bits(item)
    a, b = (_widen(shape, bits, item.type[0] == "s", 2 * bits) for shape in given[:2])
    return _product(a, b, 2 * bits, width) if a and b else None


def _multiplied_wide_and_added(item: Instruction, given: list[Shape], width: int) -> Shape | None:
    product = _multiplied_wide(item, given, width)
    return _sum(product, given[2], 2 * _bits(item), width) if product else None


def _mov(item: Instruction, given: list[Shape], width: int) -> Shape | None:
    return given[0] if len(given) == 1 else None


def _cvta(item: Instruction, given: list[Shape], width: int) -> Shape | None:
    window = next((WINDOWS[m] for m in item.modifiers if m in WINDOWS), 0)
    return _sum(given[0], constant(window, 64), 64, width, -1 if "to" in item.modifiers else 1)


def _cvt(item: Instruction, given: list[Shape], width: int) -> Shape | None:
    kinds = [m for m in item.modifiers if m in SIZES]
    to, source = kinds[0], kinds[-1]
    if to not in INTEGERS or source not in INTEGERS or "sat" in item.modifiers:
        return None
    from_bits, to_bits = 8 * SIZES[source], 8 * SIZES[to]
    shape = given[0]
    if to_bits > from_bits:
        return _widen(shape, from_bits, source[0] == "s", to_bits) if from_bits >= 32 else None
    if shape.kind in ("varying", "likely") or to_bits < 32:
        return None
    return made(to_bits, shape.low, shape.high, shape.multiple, shape.pattern)


def _shl(item: Instruction, given: list[Shape], width: int) -> Shape | None:
    by = given[1].constant
    bits = _bits(item)
    if by is None or not 0 <= by < bits:
        return None
    return _product(given[0], constant(1 << by, 64), bits, width)


def _quotient(shape: Shape, divisor: int, bits: int) -> Shape | None:
    """base / d + pattern / d, exact where d divides the base and nothing is negative."""
    if shape.kind not in ("uniform", "pattern") or divisor <= 0 or shape.low < 0:
        return None
    if shape.least >= 0 and shape.most < divisor:
        return constant(0, bits)
    low, high = shape.low // divisor, shape.high // divisor
    if not shape.pattern:
        multiple = shape.multiple // divisor if shape.multiple % divisor == 0 else 1
        return made(bits, low, high, multiple)
    if shape.multiple % divisor or min(shape.pattern) < 0 or shape.most >= 1 << (bits - 1):
        return None
    pattern = tuple(step // divisor for step in shape.pattern)
    return made(bits, low, high, shape.multiple // divisor, pattern)


def _remainder(shape: Shape, divisor: int, bits: int) -> Shape | None:
    if shape.kind not in ("uniform", "pattern") or divisor <= 0 or shape.low < 0:
        return None
    if shape.least >= 0 and shape.most < divisor:
        return shape
    if not shape.pattern:
        multiple = math.gcd(shape.multiple, divisor)
        return made(bits, 0, min(divisor - 1, shape.high), multiple)
    if shape.multiple % divisor or min(shape.pattern) < 0 or shape.most >= 1 << (bits - 1):
        return None
    return made(bits, 0, 0, 0, tuple(step % divisor for step in shape.pattern))


def _shr(item: Instruction, given: list[Shape], width: int) -> Shape | None:
    by = given[1].constant
    bits = _bits(item)
    if by is None or not 0 <= by < bits:
        return None
    return _quotient(given[0], 1 << by, bits)


def _divided(item: Instruction, given: list[Shape], width: int) -> Shape | None:
    divisor = given[1].constant
    return None if divisor is None else _quotient(given[0], divisor, _bits(item))


def _left_over(item: Instruction, given: list[Shape], width: int) -> Shape | None:
    divisor = given[1].constant
    return None if divisor is None else _remainder(given[0], divisor, _bits(item))


def _and(item: Instruction, given: list[Shape], width: int) -> Shape | None:
    shape, mask = given if given[1].constant is not None else (given[1], given[0])
    bits = _bits(item)
    if mask.constant is None:
        return None
    value = mask.constant & ((1 << bits) - 1)
    if value & (value + 1) == 0:
        found = _remainder(shape, value + 1, bits) if value >> (bits - 1) == 0 else None
        if found is None and shape.kind == "uniform" and value >> (bits - 1) == 0:
            return made(bits, 0, value, 1)
        return found
    # ...111000: rounds down to a multiple of 2^k.
    low_bits = value & -value
    if (value + low_bits) & ((1 << bits) - 1) or shape.kind not in ("uniform", "pattern") or shape.low < 0:
        return None
    if not shape.pattern:
        return made(bits, shape.low // low_bits * low_bits, shape.high // low_bits * low_bits, low_bits)
    if shape.multiple % low_bits or min(shape.pattern) < 0 or shape.most >= 1 << (bits - 1):
        return None
    pattern = tuple(step // low_bits * low_bits for step in shape.pattern)
    return made(bits, shape.low, shape.high, shape.multiple, pattern)


def _or(item: Instruction, given: list[Shape], width: int) -> Shape | None:
    """Where no bit is set on both sides, `or` and `xor` are a sum."""
    for large, small in (given, reversed(given)):
        if not (large.is_scalar and small.is_scalar) or small.least < 0 or large.least < 0:
            continue
        unit = math.gcd(large.multiple, *large.pattern) if large.pattern else large.multiple
        unit = unit & -unit if unit else 1 << 62
        if small.most < unit:
            return _sum(large, small, _bits(item), width)
    return None


def _xor(item: Instruction, given: list[Shape], width: int) -> Shape | None:
    if found := _or(item, given, width):
        return found
    shape, other = given if given[1].constant is not None else (given[1], given[0])
    flip = other.constant
    if flip is not None and shape.kind == "pattern" and flip >= 0:
        span = 1 << max(flip.bit_length(), max(shape.pattern).bit_length())
        if min(shape.pattern) >= 0 and shape.low >= 0 and shape.multiple % span == 0:
            pattern = tuple((step ^ flip) - flip for step in shape.pattern)
            return made(_bits(item), shape.low, shape.high + span, math.gcd(shape.multiple, flip), pattern)
    return None


def _selp(item: Instruction, given: list[Shape], width: int) -> Shape | None:
    return join(given[0], given[1]) if given[2].kind == "uniform" else None


def _neg(item: Instruction, given: list[Shape], width: int) -> Shape | None:
    return _sum(constant(0, 64), given[0], _bits(item), width, -1)


_RULES: dict[Meaning, Callable[[Instruction, list[Shape], int], Shape | None]] = {
    "copy": _mov,
    "choice": _selp,
    "sum": _added,
    "difference": _subtracted,
    "product": _multiplied,
    "wide product": _multiplied_wide,
    "product and sum": _multiplied_and_added,
    "wide product and sum": _multiplied_wide_and_added,
    "quotient": _divided,
    "remainder": _left_over,
    "negation": _neg,
    "and": _and,
    "or": _or,
    "xor": _xor,
    "left shift": _shl,
    "right shift": _shr,
    "conversion": _cvt,
    "address": _cvta,
}
"""The shape of an integer of the instruction's type, from those of its operands; None if nothing is known."""
