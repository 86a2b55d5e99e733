"""Floating-point instructions of the PTX machine against exact arithmetic, rounded by the tests themselves.

Directed rounding has two implementations: AVX-512's embedded rounding where a vector fills its registers, and
a switch of the processor's rounding mode elsewhere (scalars, narrow vectors, processors without AVX-512).
"""

import math
import operator
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product

import numpy as np
import pytest

from nnkit.device.virtual import VirtualDevice
from tests.support.floats import OPERATIONS, edges, exact
from tests.support.opcodes import (
    EVERY_WAY,
    FORMATS,
    UNIFORM,
    VARYING,
    WIDE,
    Bits,
    Case,
    Finite,
    Format,
    Way,
    check,
    exact_product,
)

ROUNDINGS = ("rn", "rz", "rm", "rp")
HALF_OF_AVX512 = Way(8)
"""Vectors of 8: f64 fills a register, f32 does not."""


@cache
def operands(signature: tuple[int, ...]) -> list[Bits]:
    """Tuples of edges, random bit patterns, numbers near each other, and sums of products that cancel."""
    generator = np.random.default_rng(len(signature))
    format_ = FORMATS[f"f{max(signature)}"]
    rows = list(product(edges(format_), repeat=len(signature)))
    if len(rows) > 2500:
        rows = [rows[index] for index in generator.choice(len(rows), 2500, replace=False)]
    for _ in range(300):
        rows.append(tuple(int.from_bytes(generator.bytes(8)) >> (64 - bits) for bits in signature))
        first = int.from_bytes(generator.bytes(8)) >> (64 - format_.bits)
        steps = generator.integers(-3, 4, len(signature))
        shifts = generator.integers(0, 3, len(signature)) << (format_.precision - 1)
        rows.append(
            tuple((first + int(d) + int(s)) % (2 * format_.sign) for d, s in zip(steps, shifts, strict=True))
        )
        if len(signature) == 3:
            a, b = (
                int(format_.rounded(Finite(int(m), -40), "rn")) for m in generator.integers(1, 1 << 62, 2)
            )
            opposite = format_.rounded(exact_product(format_.value(a), format_.value(b)), "rn") | format_.sign
            rows.append((a, b, (opposite + int(steps[0])) % (2 * format_.sign)))
    return [
        np.array(column, f"u{bits // 8}")
        for column, bits in zip(zip(*rows, strict=True), signature, strict=True)
    ]


ARITY = {"fma": 3, "mad": 3, "rcp": 1, "sqrt": 1}


def arithmetic_case(name: str, type_: str, rounding: str = "", ftz: str = "", sat: str = "") -> Case:
    """`rounding`, `ftz` and `sat` are modifiers with their dots, or empty."""
    format_ = FORMATS[type_]
    one = format_.rounded(Finite(1, 0), "rn")
    operation = "fma" if name == "mad" else name

    def model(*given: int) -> int:
        if ftz:
            given = tuple(format_.flushed(bits) for bits in given)
        result = format_.rounded(exact(operation, format_, *given), rounding[1:] or "rn")
        if ftz:
            result = format_.flushed(result)
        if sat:
            # A negative number has a large word, and NaN becomes 0.
            result = 0 if result > format_.infinity else min(result, one)
        return result

    given = (type_,) * ARITY.get(name, 2)
    return Case(f"{name}{rounding}{ftz}{sat}.{type_}", type_, given, model)


def arithmetic(roundings: tuple[str, ...] = ROUNDINGS) -> Iterator[Case]:
    for name, rounding in product(OPERATIONS, roundings):
        yield arithmetic_case(name, "f64", f".{rounding}")
        for ftz, sat in product(("", ".ftz"), ("", ".sat")):
            if not sat or name in ("add", "sub", "mul", "fma"):
                yield arithmetic_case(name, "f32", f".{rounding}", ftz, sat)


def test_arithmetic() -> None:
    check(arithmetic(), operands, (VARYING, UNIFORM))


def test_arithmetic_at_other_widths() -> None:
    check(arithmetic(("rn", "rm")), operands, (WIDE, HALF_OF_AVX512))


def test_without_a_rounding_mode_it_is_to_nearest() -> None:
    names = [(name, type_) for name in ("add", "sub", "mul") for type_ in FORMATS]
    cases = [arithmetic_case(*name) for name in names]
    cases += [arithmetic_case("mad", "f32", ".rz"), arithmetic_case("mad", "f64", ".rn")]
    check(cases, operands, (VARYING, UNIFORM))


def test_directed_rounding_without_avx512(avx2: Callable[[int], VirtualDevice]) -> None:
    check(arithmetic(("rz", "rm", "rp")), operands, (VARYING,), avx2)


# -- signs, extremes, classes, comparisons ------------------------------------------------------------------


def is_nan(bits: int, format_: Format) -> bool:
    return bits & ~format_.sign > format_.infinity


def order(bits: int, format_: Format) -> int:
    """Grows with the number; -0 is below +0."""
    return -1 - (bits & ~format_.sign) if bits & format_.sign else bits


def extreme_case(
    name: str, type_: str, ftz: str = "", nan: str = "", signs: str = "", arity: int = 2
) -> Case:
    format_ = FORMATS[type_]

    def model(*given: int) -> int:
        given = tuple(format_.flushed(bits) if ftz else bits for bits in given)
        sign = (given[0] ^ given[1]) & format_.sign if "xorsign" in signs else 0
        if signs:
            given = tuple(bits & ~format_.sign for bits in given)
        numbers = [bits for bits in given if not is_nan(bits, format_)]
        if not numbers or (nan and len(numbers) < len(given)):
            return format_.infinity + 1
        return (min if name == "min" else max)(numbers, key=lambda bits: order(bits, format_)) | sign

    return Case(f"{name}{ftz}{nan}{signs}.{type_}", type_, (type_,) * arity, model)


def extremes() -> Iterator[Case]:
    for name in ("min", "max"):
        yield extreme_case(name, "f64")
        for ftz, nan in product(("", ".ftz"), ("", ".NaN")):
            for signs in ("", ".xorsign.abs"):
                yield extreme_case(name, "f32", ftz, nan, signs)


CLASSES: dict[str, Callable[[int, Format], bool]] = {
    "finite": lambda size, format_: size < format_.infinity,
    "infinite": lambda size, format_: size == format_.infinity,
    "number": lambda size, format_: size <= format_.infinity,
    "notanumber": lambda size, format_: size > format_.infinity,
    "normal": lambda size, format_: 1 << (format_.precision - 1) <= size < format_.infinity,
    "subnormal": lambda size, format_: format_.is_denormal(size),
}


def signs_and_classes() -> Iterator[Case]:
    for type_, format_ in FORMATS.items():
        sign = format_.sign
        for ftz in ("", ".ftz") if type_ == "f32" else ("",):
            flush = format_.flushed if ftz else int
            yield Case(f"abs{ftz}.{type_}", type_, (type_,), lambda a, f=flush, s=sign: f(a) & ~s)
            yield Case(f"neg{ftz}.{type_}", type_, (type_,), lambda a, f=flush, s=sign: f(a) ^ s)
        yield Case(f"copysign.{type_}", type_, (type_, type_), lambda a, b, s=sign: (a & s) | (b & ~s))
        for name, belongs in CLASSES.items():
            yield Case(
                f"testp.{name}.{type_}",
                "pred",
                (type_,),
                lambda a, belongs=belongs, f=format_: belongs(a & ~f.sign, f),
            )


def test_extremes() -> None:
    check(extremes(), operands, EVERY_WAY)


def test_extremes_of_three() -> None:
    forms = product(("min", "max"), ["f32"], ("", ".ftz"), ("", ".NaN"), ("", ".abs"))
    check([extreme_case(*form, 3) for form in forms], operands, EVERY_WAY)


def test_signs_and_classes() -> None:
    check(signs_and_classes(), operands, EVERY_WAY)


def unordered(a: float, b: float) -> bool:
    return math.isnan(a) or math.isnan(b)


Comparison = Callable[[float, float], bool]
ORDERED: dict[str, Comparison] = {
    name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")
}


def when_ordered(compare: Comparison) -> Comparison:
    return lambda a, b: not unordered(a, b) and compare(a, b)


def or_unordered(compare: Comparison) -> Comparison:
    return lambda a, b: unordered(a, b) or compare(a, b)


COMPARISONS: dict[str, Comparison] = {
    **{name: when_ordered(compare) for name, compare in ORDERED.items()},
    **{f"{name}u": or_unordered(compare) for name, compare in ORDERED.items()},
    "num": lambda a, b: not unordered(a, b),
    "nan": unordered,
}
COMBINATIONS = {"and": operator.and_, "or": operator.or_, "xor": operator.xor}


def as_float(bits: int, format_: Format, ftz: bool = False) -> float:
    value = format_.value(format_.flushed(bits) if ftz else bits)
    return math.ldexp(value.m, value.e) if isinstance(value, Finite) else value


def on_bits(compare: Comparison, format_: Format, ftz: bool) -> Callable[[int, int], bool]:
    return lambda a, b: bool(compare(as_float(a, format_, ftz), as_float(b, format_, ftz)))


def comparisons() -> Iterator[Case]:
    """Every comparison; every combination with a predicate, negated too, for some of them."""
    for (name, compare), type_, ftz in product(COMPARISONS.items(), FORMATS, ("", ".ftz")):
        if ftz and type_ == "f64":
            continue

        model = on_bits(compare, FORMATS[type_], bool(ftz))
        two, three = (type_, type_), (type_, type_, "pred")
        yield Case(f"setp.{name}{ftz}.{type_}", "pred", two, model)
        text = f".reg .pred %q; setp.{name}{ftz}.{type_} %q|{{0}}, {{1}}, {{2}};"
        yield Case(f"setp.{name}{ftz}.{type_} |q", "pred", two, lambda a, b, m=model: not m(a, b), text)
        yield Case(f"set.{name}{ftz}.u32.{type_}", "u32", two, lambda a, b, m=model: -m(a, b))
        one = FORMATS["f32"].rounded(Finite(1, 0), "rn")
        yield Case(f"set.{name}{ftz}.f32.{type_}", "f32", two, lambda a, b, m=model, one=one: one * m(a, b))
        if name not in ("lt", "geu"):
            continue
        for word, combine in COMBINATIONS.items():
            full = f"setp.{name}.{word}{ftz}.{type_}"
            yield Case(full, "pred", three, lambda a, b, c, m=model, f=combine: f(m(a, b), c))
            text = f"{full} {{0}}, {{1}}, {{2}}, !{{3}};"
            yield Case(
                f"{full} !c", "pred", three, lambda a, b, c, m=model, f=combine: f(m(a, b), not c), text
            )
            text = f".reg .pred %q; {full} %q|{{0}}, {{1}}, {{2}}, {{3}};"
            yield Case(
                f"{full} |q", "pred", three, lambda a, b, c, m=model, f=combine: f(not m(a, b), c), text
            )
            full = f"set.{name}.{word}{ftz}.s32.{type_}"
            yield Case(full, "s32", three, lambda a, b, c, m=model, f=combine: -f(m(a, b), c))


def with_predicates(signature: tuple[int, ...]) -> list[Bits]:
    """A last operand of 0 and 1 in turn."""
    columns = operands(tuple(bits for bits in signature if bits > 1))
    if 1 not in signature:
        return columns
    return [*columns, np.arange(len(columns[0]), dtype=np.uint32) % 2]


@pytest.mark.slow
def test_comparisons() -> None:
    check(comparisons(), with_predicates, (VARYING, UNIFORM))


def selections() -> Iterator[Case]:
    """selp by a predicate, slct by a sign: NaN is not at or above 0, and a flushed denormal is."""
    f32 = FORMATS["f32"]
    for type_ in ("b16", "u16", "s16", "b32", "u32", "s32", "f32", "b64", "u64", "s64", "f64"):
        yield Case(f"selp.{type_}", type_, (type_, type_, "pred"), lambda a, b, p: a if p else b)
        yield Case(f"slct.{type_}.s32", type_, (type_, type_, "s32"), lambda a, b, c: a if c >= 0 else b)
        for ftz in ("", ".ftz"):
            yield Case(
                f"slct{ftz}.{type_}.f32",
                type_,
                (type_, type_, "f32"),
                lambda a, b, c, ftz=bool(ftz): a if as_float(c, f32, ftz) >= 0 else b,
            )


def to_select(signature: tuple[int, ...]) -> list[Bits]:
    """Any two operands, and a selector that is a predicate or takes every value of an f32's edges."""
    generator = np.random.default_rng(7)
    selector = np.array(edges(FORMATS["f32"]) * 2, np.uint32)
    if signature[2] == 1:
        selector %= 2
    bits = signature[0]
    a, b = (generator.integers(0, 1 << bits, len(selector), f"u{bits // 8}") for _ in range(2))
    return [a, b, selector]


def test_selections() -> None:
    check(selections(), to_select, EVERY_WAY)
