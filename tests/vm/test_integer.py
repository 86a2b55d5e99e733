"""Integer instructions of the PTX machine against Python's integers, at the edges and on random bits."""

import operator
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import pytest

from tests.support.integers import bits_in, clamped, operands, signed, unsigned
from tests.support.opcodes import EVERY_WAY, UNIFORM, VARYING, Case, check

TYPES = [f"{sign}{bits}" for bits in (16, 32, 64) for sign in "us"]


def quotient(a: int, b: int) -> int:
    """Towards zero; all ones for a division by zero."""
    if b == 0:
        return -1
    size = abs(a) // abs(b)
    return -size if (a < 0) != (b < 0) else size


def remainder(a: int, b: int) -> int:
    return a - b * quotient(a, b) if b else a


def arithmetic() -> Iterator[Case]:
    for t in TYPES:
        bits = bits_in(t)

        def high(a: int, b: int, bits: int = bits) -> int:
            return a * b >> bits

        yield Case(f"add.{t}", t, (t, t), operator.add)
        yield Case(f"sub.{t}", t, (t, t), operator.sub)
        yield Case(f"mul.lo.{t}", t, (t, t), operator.mul)
        yield Case(f"mul.hi.{t}", t, (t, t), high)
        yield Case(f"mad.lo.{t}", t, (t, t, t), lambda a, b, c: a * b + c)
        yield Case(f"mad.hi.{t}", t, (t, t, t), lambda a, b, c, high=high: high(a, b) + c)
        yield Case(f"sad.{t}", t, (t, t, t), lambda a, b, c: abs(a - b) + c)
        yield Case(f"div.{t}", t, (t, t), quotient)
        yield Case(f"rem.{t}", t, (t, t), remainder)
        yield Case(f"min.{t}", t, (t, t), min)
        yield Case(f"max.{t}", t, (t, t), max)
        if t[0] == "s":
            yield Case(f"abs.{t}", t, (t,), abs)
            yield Case(f"neg.{t}", t, (t,), operator.neg)
        if bits < 64:
            wide = f"{t[0]}{2 * bits}"
            yield Case(f"mul.wide.{t}", wide, (t, t), operator.mul)
            yield Case(f"mad.wide.{t}", wide, (t, t, wide), lambda a, b, c: a * b + c)
    s = "s32"
    yield Case("add.sat.s32", s, (s, s), lambda a, b: clamped(a + b, "s32"))
    yield Case("sub.sat.s32", s, (s, s), lambda a, b: clamped(a - b, "s32"))
    yield Case("mad.hi.sat.s32", s, (s, s, s), lambda a, b, c: clamped((a * b >> 32) + c, "s32"))
    yield Case("min.relu.s32", s, (s, s), lambda a, b: max(min(a, b), 0))
    yield Case("max.relu.s32", s, (s, s), lambda a, b: max(a, b, 0))


def products_of_24_bits() -> Iterator[Case]:
    for (t, cut), (half, shift) in product([("u32", unsigned), ("s32", signed)], [("lo", 0), ("hi", 16)]):

        def part(a: int, b: int, cut: Callable[[int, int], int] = cut, shift: int = shift) -> int:
            return cut(a, 24) * cut(b, 24) >> shift

        yield Case(f"mul24.{half}.{t}", t, (t, t), part)
        yield Case(f"mad24.{half}.{t}", t, (t, t, t), lambda a, b, c, part=part: part(a, b) + c)
    yield Case(
        "mad24.hi.sat.s32",
        "s32",
        ("s32", "s32", "s32"),
        lambda a, b, c: clamped(signed(signed(a, 24) * signed(b, 24) >> 16, 32) + c, "s32"),
    )


def logic() -> Iterator[Case]:
    for t in ("b16", "b32", "b64", "pred"):
        yield Case(f"and.{t}", t, (t, t), operator.and_)
        yield Case(f"or.{t}", t, (t, t), operator.or_)
        yield Case(f"xor.{t}", t, (t, t), operator.xor)
        yield Case(f"not.{t}", t, (t,), operator.not_ if t == "pred" else operator.invert)
        if t != "pred":
            yield Case(f"cnot.{t}", t, (t,), operator.not_)


def shifts() -> Iterator[Case]:
    for bits in (16, 32, 64):
        yield Case(f"shl.b{bits}", f"b{bits}", (f"b{bits}", "u32"), lambda a, n: a << min(n, 64))
        for sign in "bus":
            t = f"{sign}{bits}"
            yield Case(f"shr.{t}", t, (t, "u32"), lambda a, n: a >> min(n, 64))
    for mode, count in (("wrap", lambda n: n & 31), ("clamp", lambda n: min(n, 32))):
        given = ("b32", "b32", "u32")
        yield Case(f"shf.r.{mode}.b32", "b32", given, lambda a, b, n, f=count: (b << 32 | a) >> f(n))
        yield Case(f"shf.l.{mode}.b32", "b32", given, lambda a, b, n, f=count: (b << 32 | a) << f(n) >> 32)


def highest_bit(a: int, bits: int) -> int:
    """Where the highest bit is that differs from the sign; -1 if none does."""
    return (a if a >= 0 else ~a).bit_length() - 1


def bit_counts() -> Iterator[Case]:
    for bits in (32, 64):
        b = f"b{bits}"
        yield Case(f"popc.{b}", "u32", (b,), int.bit_count)
        yield Case(f"clz.{b}", "u32", (b,), lambda a, bits=bits: bits - a.bit_length())
        yield Case(f"brev.{b}", b, (b,), lambda a, bits=bits: int(f"{a:0{bits}b}"[::-1], 2))
        for t in (f"u{bits}", f"s{bits}"):
            yield Case(f"bfind.{t}", "u32", (t,), lambda a, bits=bits: highest_bit(a, bits))
            yield Case(
                f"bfind.shiftamt.{t}",
                "u32",
                (t,),
                lambda a, bits=bits: -1 if highest_bit(a, bits) < 0 else bits - 1 - highest_bit(a, bits),
            )


def extracted(a: int, position: int, length: int, bits: int, is_signed: bool) -> int:
    """bfe, bit by bit as PTX describes it."""
    position, length = position & 255, length & 255
    sign = a >> min(position + length - 1, bits - 1) & 1 if is_signed and length else 0
    return sum(
        (a >> (position + i) & 1 if i < length and position + i < bits else sign) << i for i in range(bits)
    )


def inserted(a: int, b: int, position: int, length: int, bits: int) -> int:
    position, length = position & 255, length & 255
    for i in range(min(length, max(bits - position, 0))):
        b = b & ~(1 << (position + i)) | (a >> i & 1) << (position + i)
    return b


def mask(position: int, length: int, clamp: bool) -> int:
    if not clamp:
        position, length = position & 31, length & 31
    return ((1 << min(length, 32)) - 1) << min(position, 32)


def extended(a: int, count: int, clamp: bool, is_signed: bool) -> int:
    count = min(count, 32) if clamp else count & 31
    return (signed(a, count) if is_signed else unsigned(a, count)) if count else 0


def bit_fields() -> Iterator[Case]:
    for bits in (32, 64):
        for t in (f"u{bits}", f"s{bits}"):
            yield Case(
                f"bfe.{t}",
                t,
                (t, "u32", "u32"),
                lambda a, p, n, bits=bits, s=t[0] == "s": extracted(a, p, n, bits, s),
            )
        b = f"b{bits}"
        yield Case(
            f"bfi.{b}", b, (b, b, "u32", "u32"), lambda a, b, p, n, bits=bits: inserted(a, b, p, n, bits)
        )
    for mode in ("clamp", "wrap"):
        clamp = mode == "clamp"
        yield Case(f"bmsk.{mode}.b32", "b32", ("u32", "u32"), lambda p, n, c=clamp: mask(p, n, c))
        yield Case(f"szext.{mode}.u32", "u32", ("u32", "u32"), lambda a, n, c=clamp: extended(a, n, c, False))
        yield Case(f"szext.{mode}.s32", "s32", ("s32", "u32"), lambda a, n, c=clamp: extended(a, n, c, True))


def picked(a: int, b: int, selector: int) -> int:
    """prmt without a mode."""
    pool = a | b << 32
    result = 0
    for place in range(4):
        pick = selector >> 4 * place & 15
        byte = pool >> 8 * (pick & 7) & 255
        if pick & 8:
            byte = 255 if byte & 128 else 0
        result |= byte << 8 * place
    return result


MODES = {
    "f4e": ("3210", "4321", "5432", "6543"),
    "b4e": ("5670", "6701", "7012", "0123"),
    "rc8": ("0000", "1111", "2222", "3333"),
    "ecl": ("3210", "3211", "3222", "3333"),
    "ecr": ("0000", "1110", "2210", "3210"),
    "rc16": ("1010", "3232", "1010", "3232"),
}
"""prmt's modes: which bytes each value of the selector's two lowest bits picks, the highest byte first."""


def four_products(a: int, b: int, c: int, signs: tuple[str, str]) -> int:
    for place in range(4):
        x, y = a >> 8 * place, b >> 8 * place
        c += (signed(x, 8) if signs[0] == "s" else x & 255) * (signed(y, 8) if signs[1] == "s" else y & 255)
    return c


def bytes_of_words() -> Iterator[Case]:
    yield Case("prmt.b32", "b32", ("b32", "b32", "b32"), picked)
    for mode, table in MODES.items():
        yield Case(
            f"prmt.b32.{mode}",
            "b32",
            ("b32", "b32", "b32"),
            lambda a, b, c, table=table: picked(a, b, int(table[c & 3], 16)),
        )
    for signs in product("us", repeat=2):
        result = "u32" if signs == ("u", "u") else "s32"
        yield Case(
            f"dp4a.{signs[0]}32.{signs[1]}32",
            result,
            ("b32", "b32", result),
            lambda a, b, c, signs=signs: four_products(a, b, c, signs),
        )


FAMILIES = [arithmetic, products_of_24_bits, logic, shifts, bit_counts, bit_fields, bytes_of_words]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_against_python(family: Callable[[], Iterator[Case]]) -> None:
    check(family(), operands, EVERY_WAY)


def looked_up(a: int, b: int, c: int, table: int) -> int:
    return sum((table >> ((a >> i & 1) << 2 | (b >> i & 1) << 1 | c >> i & 1) & 1) << i for i in range(32))


def test_lop3_tables() -> None:
    """Every table; the three words hold all eight combinations of bits, so few rows suffice."""
    cases = [
        Case(
            f"lop3.b32 {table:#x}",
            "b32",
            ("b32", "b32", "b32"),
            lambda a, b, c, table=table: looked_up(a, b, c, table),
            f"lop3.b32 {{0}}, {{1}}, {{2}}, {{3}}, {table};",
        )
        for table in range(256)
    ]
    words = np.array([[0xF0F0F0F0, 0xCCCCCCCC, 0xAAAAAAAA], [0x12345678, 0x9ABCDEF0, 0x0F1E2D3C]], np.uint32)
    check(cases, lambda _: list(words.T), (VARYING, UNIFORM))


def constant_operands() -> Iterator[Case]:
    """The second operand in the text: shifts, division and masks by constants take ways of their own."""
    for t, n in product(("u32", "s32", "u64", "s64"), (0, 1, 2, 5, 31, 32, 33, 63, 64, 255)):
        b = f"b{t[1:]}"
        yield Case(f"shl.{b} {n}", b, (b,), lambda a, n=n: a << n, f"shl.{b} {{0}}, {{1}}, {n};")
        yield Case(f"shr.{t} {n}", t, (t,), lambda a, n=n: a >> n, f"shr.{t} {{0}}, {{1}}, {n};")
        yield Case(f"and.{b} {n}", b, (b,), lambda a, n=n: a & n, f"and.{b} {{0}}, {{1}}, {n};")
    for t, n in product(("u32", "s32", "u64", "s64"), (1, 2, 3, 7, 8, 1000, -1, -8)):
        if t[0] == "s" or n > 0:
            yield Case(f"div.{t} {n}", t, (t,), lambda a, n=n: quotient(a, n), f"div.{t} {{0}}, {{1}}, {n};")
            yield Case(f"rem.{t} {n}", t, (t,), lambda a, n=n: remainder(a, n), f"rem.{t} {{0}}, {{1}}, {n};")


def test_constant_operands() -> None:
    check(constant_operands(), operands, (VARYING, UNIFORM))


COMPARISONS = {name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")}
OF_UNSIGNED = {"lo": operator.lt, "ls": operator.le, "hi": operator.gt, "hs": operator.ge}


def comparisons() -> Iterator[Case]:
    for sign, bits in product("bus", (16, 32, 64)):
        t = f"{sign}{bits}"
        names = {"b": ("eq", "ne"), "s": (*COMPARISONS,), "u": (*COMPARISONS, *OF_UNSIGNED)}[sign]
        for name in names:
            compare = (COMPARISONS | OF_UNSIGNED)[name]
            yield Case(f"setp.{name}.{t}", "pred", (t, t), compare)
            yield Case(f"set.{name}.u32.{t}", "u32", (t, t), lambda a, b, f=compare: -f(a, b))
            text = f".reg .pred %q; setp.{name}.{t} %q|{{0}}, {{1}}, {{2}};"
            yield Case(f"setp.{name}.{t} |q", "pred", (t, t), lambda a, b, f=compare: not f(a, b), text)
        yield Case(f"setp.ne.xor.{t}", "pred", (t, t, "pred"), lambda a, b, p: (a != b) ^ p)
        yield Case(f"set.eq.and.f32.{t}", "f32", (t, t, "pred"), lambda a, b, p: 0x3F800000 * (a == b and p))


def test_comparisons() -> None:
    check(comparisons(), operands, (VARYING, UNIFORM))
