"""Conversions of the PTX machine against exact arithmetic: every cvt form, packing, address spaces."""

import math
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import pytest

from nnkit.device.virtual import VirtualDevice
from tests.support.floats import edges as float_edges
from tests.support.integers import clamped, limits, signed, unsigned
from tests.support.integers import edges as integer_edges
from tests.support.opcodes import (
    EVERY_WAY,
    FORMATS,
    UNIFORM,
    VARYING,
    WIDE,
    Bits,
    Case,
    Exact,
    Finite,
    check,
    device,
)

INTEGERS = [f"{sign}{bits}" for bits in (8, 16, 32, 64) for sign in "us"]
ROUNDINGS = ("rn", "rz", "rm", "rp")


def operands(signature: tuple[int, ...]) -> list[Bits]:
    """One column: the edges of integers and floats, numbers at the limits of integer types, random bits."""
    (bits,) = signature
    generator = np.random.default_rng(bits)
    found = [*integer_edges(bits), *generator.integers(0, 1 << bits, 600, f"u{bits // 8}").tolist()]
    if bits > 16:
        format_ = FORMATS[f"f{bits}"]
        found += float_edges(format_)
        # Ties, neighbours of integers, and the limits of every integer type with their neighbours.
        halves = [(1 << power) + d for power in (*range(12), 22, 23, 24, 51, 52, 53) for d in (-1, 1, 3)]
        numbers = [Finite(sign * half, -1) for half in halves if half for sign in (-1, 1)]
        for type_ in INTEGERS:
            numbers += [Finite(2 * limit + d, -1) for limit in limits(type_) for d in (-3, -1, 1, 3)]
        for number in numbers:
            near = format_.rounded(number, "rn")
            found += [near - 1, near, near + 1]
        # Mantissas of random numbers of moderate size.
        one = format_.rounded(Finite(1, 0), "rn")
        sizes = generator.integers(0, 66 << (format_.precision - 1), 600).tolist()
        found += [one + size | format_.sign * (size & 1) for size in sizes]
    if bits == 64:
        # What rounds to f32: ties and neighbours of ties, down into its denormals.
        for exponent in (-151, -150, -149, -140, -127, -126, 0, 60, 126, 127):
            mantissas = [(1 << 53) + (n << 29) + d for n in (0, 1, 2, 3, (1 << 24) - 1) for d in (-1, 0, 1)]
            mantissas += [(1 << 52) + (1 << n) for n in range(52)]
            found += [format_.rounded(Finite(m, exponent - 53), "rn") for m in mantissas]
    return [np.array(found, f"u{bits // 8}")]


def between_integers() -> Iterator[Case]:
    for source, to in product(INTEGERS, INTEGERS):
        yield Case(f"cvt.{to}.{source}", to, (source,), lambda a, to=to: narrowed(a, to))
        yield Case(f"cvt.sat.{to}.{source}", to, (source,), lambda a, to=to: clamped(a, to))
    for source in ("u8", "s8", "u16", "s16"):
        # Registers may be wider than the types: the source is cut off, the result extended.
        wide = f"{source[0]}32"
        text = f".reg .b64 %w; cvt.{source}.{wide} %w, {{1}}; mov.b64 {{0}}, %w;"
        yield Case(
            f"cvt.{source}.{wide} to 64 bits",
            f"{source[0]}64",
            (wide,),
            lambda a, t=source: narrowed(a, t),
            text,
        )
        text = f"cvt.{wide}.{source} {{0}}, {{1}};"
        yield Case(
            f"cvt.{wide}.{source} of 64 bits", wide, ("u64",), lambda a, t=source: narrowed(a, t), text
        )


def narrowed(value: int, type_: str) -> int:
    bits = int(type_[1:])
    return signed(value, bits) if type_[0] == "s" else unsigned(value, bits)


def to_unit_interval(bits: int, type_: str) -> int:
    """.sat of a float."""
    format_ = FORMATS[type_]
    return 0 if bits > format_.infinity else min(bits, format_.rounded(Finite(1, 0), "rn"))


def from_integers(roundings: tuple[str, ...] = ROUNDINGS) -> Iterator[Case]:
    for source, to, rounding in product(INTEGERS, FORMATS, roundings):

        def model(a: int, to: str = to, rounding: str = rounding) -> int:
            return FORMATS[to].rounded(Finite(a, 0) if a else 0.0, rounding)

        yield Case(f"cvt.{rounding}.{to}.{source}", to, (source,), model)
        if rounding in ("rn", "rp"):
            yield Case(
                f"cvt.{rounding}.sat.{to}.{source}",
                to,
                (source,),
                lambda a, m=model, to=to: to_unit_interval(m(a), to),
            )


def whole(value: Exact, rounding: str) -> Exact:
    """The integer that the mode chooses; zeros keep the sign of the number."""
    if not isinstance(value, Finite) or value.e >= 0:
        return value
    floor, rest = divmod(value.m, 1 << -value.e)
    up = {
        "rmi": False,
        "rpi": rest > 0,
        "rzi": rest > 0 and value.m < 0,
        "rni": 2 * rest > 1 << -value.e or (2 * rest == 1 << -value.e and floor & 1 == 1),
    }[rounding]
    return Finite(floor + up, 0) if floor + up else math.copysign(0.0, value.m)


def to_integers() -> Iterator[Case]:
    for source, to, rounding in product(FORMATS, INTEGERS, ("rni", "rzi", "rmi", "rpi")):
        for ftz in ("", ".ftz") if source == "f32" else ("",):

            def model(
                a: int, ftz: str = ftz, source: str = source, to: str = to, rounding: str = rounding
            ) -> int:
                format_ = FORMATS[source]
                value = whole(format_.value(format_.flushed(a) if ftz else a), rounding)
                if isinstance(value, Finite):
                    return clamped(value.m << value.e, to)
                if math.isnan(value):
                    return narrowed(1 << (int(to[1:]) - 1), to) if "64" in (source[1:], to[1:]) else 0
                return clamped(1 << 99 if value > 0 else -1 << 99, to) if value else 0

            yield Case(f"cvt.{rounding}{ftz}.{to}.{source}", to, (source,), model)


def between_floats(roundings: tuple[str, ...] = ROUNDINGS) -> Iterator[Case]:
    """To f32 with every rounding, to f64, and to whole numbers of the same type."""
    forms = [(f".{rounding}", "f32", "f64") for rounding in roundings]
    forms += [("", "f64", "f32"), ("", "f32", "f32"), ("", "f64", "f64")]
    forms += [
        (f".{rounding}", type_, type_) for rounding in ("rni", "rzi", "rmi", "rpi") for type_ in FORMATS
    ]
    for (rounding, to, source), ftz, sat in product(forms, ("", ".ftz"), ("", ".sat")):
        if ftz and source == to == "f64":
            continue

        def model(
            a: int,
            to: str = to,
            source: str = source,
            rounding: str = rounding,
            ftz: str = ftz,
            sat: str = sat,
        ) -> int:
            if ftz and source == "f32":
                a = FORMATS[source].flushed(a)
            value = FORMATS[source].value(a)
            if rounding.endswith("i"):
                value, how = whole(value, rounding[1:]), "rn"
            else:
                how = rounding[1:] or "rn"
            found = FORMATS[to].rounded(value, how)
            if ftz and to == "f32":
                found = FORMATS[to].flushed(found)
            return to_unit_interval(found, to) if sat else found

        yield Case(f"cvt{rounding}{ftz}{sat}.{to}.{source}", to, (source,), model)


@pytest.mark.parametrize("family", [between_integers, from_integers, to_integers, between_floats])
def test_cvt(family: Callable[[], Iterator[Case]]) -> None:
    check(family(), operands, (VARYING, UNIFORM))


def test_cvt_at_32_lanes() -> None:
    check([*from_integers(("rz",)), *between_floats(("rz",))], operands, (WIDE,))


def test_directed_rounding_without_avx512(avx2: Callable[[int], VirtualDevice]) -> None:
    check(
        [*from_integers(("rz", "rm", "rp")), *between_floats(("rm", "rp"))],
        operands,
        (VARYING, UNIFORM),
        avx2,
    )


def test_integers_without_avx512(avx2: Callable[[int], VirtualDevice]) -> None:
    """64-bit integers and doubles have no conversion in AVX2 at all."""
    check([*from_integers(("rn",)), *to_integers()], operands, (VARYING,), avx2)


def moves() -> Iterator[Case]:
    for type_ in ("b16", "u16", "s16", "b32", "u32", "s32", "f32", "b64", "u64", "s64", "f64"):
        bits = int(type_[1:])
        given = f"b{bits}"
        yield Case(f"mov.{type_}", given, (given,), lambda a: a)
        if bits > 16:
            half, mask = bits // 2, (1 << bits // 2) - 1
            text = f".reg .b{half} %l; mov.b{bits} {{{{%l, _}}}}, {{1}}; mov.b{half} {{0}}, %l;"
            yield Case(f"mov.b{bits} {{l, _}}", f"b{half}", (given,), lambda a, m=mask: a & m, text)
            text = f"mov.b{bits} {{{{_, {{0}}}}}}, {{1}};"
            yield Case(f"mov.b{bits} {{_, h}}", f"b{half}", (given,), lambda a, h=half: a >> h, text)
            text = (
                f".reg .b{half} %l, %h; mov.b{bits} {{{{%l, %h}}}}, {{1}}; mov.b{bits} {{0}}, {{{{%h, %l}}}};"
            )
            yield Case(
                f"mov.b{bits} swapped", given, (given,), lambda a, h=half, m=mask: a >> h | (a & m) << h, text
            )
    text = ".reg .b16 %h<4>; mov.b64 {{%h0, %h1, %h2, %h3}}, {1}; mov.b64 {0}, {{%h3, %h2, %h1, %h0}};"
    yield Case("mov.b64 of four", "b64", ("b64",), quarters_swapped, text)
    # The registers' types do not matter, their bits do.
    text = ".reg .f32 %l, %h; mov.b64 {{%l, %h}}, {1}; .reg .f64 %w; mov.b64 %w, {{%l, %h}}; mov.b64 {0}, %w;"
    yield Case("mov.b64 of f32", "b64", ("b64",), lambda a: a, text)
    text = ".reg .b128 %q; .reg .b64 %l, %h; mov.b128 %q, {{{1}, 7}}; mov.b128 {{%l, %h}}, %q;"
    text += "add.u64 {0}, %l, %h;"
    yield Case("mov.b128", "u64", ("b64",), lambda a: a + 7, text)
    yield Case("mov.pred", "pred", ("pred",), lambda p: p)


def quarters_swapped(a: int) -> int:
    return sum((a >> 16 * i & 0xFFFF) << 16 * (3 - i) for i in range(4))


def columns_of_any(signature: tuple[int, ...]) -> list[Bits]:
    if signature == (1,):
        return [np.arange(64, dtype=np.uint32) % 3 % 2]
    return operands(signature)


def test_mov() -> None:
    check(moves(), columns_of_any, EVERY_WAY)


SPACES = """
.version 8.3
.target sm_90
.address_size 64
.global .align 8 .b8 g[64];
.const .align 8 .b8 c[64];
.visible .entry k(.param .u64 in, .param .u64 out)
{
    .shared .align 8 .b8 s[64];
    .local .align 8 .b8 l[64];
    .reg .b64 %a<5>, %x<5>, %out, %at, %back;
    .reg .b32 %bit, %bits, %tid, %off;
    .reg .pred %p;
    mov.u32 %tid, %tid.x;
    mul.lo.u32 %off, %tid, 4;
    cvt.u64.u32 %at, %off;
    ld.param.u64 %out, [out];
    add.u64 %out, %out, %at;
    mov.u64 %a0, g; mov.u64 %a1, c; mov.u64 %a2, s; mov.u64 %a3, l; ld.param.u64 %a4, [in];
    cvta.global.u64 %x0, %a0; cvta.const.u64 %x1, %a1; cvta.shared.u64 %x2, %a2; cvta.local.u64 %x3, %a3;
    cvta.global.u64 %x4, %a4;
    mov.u32 %bits, 0;
BODY
    st.global.u32 [%out], %bits;
    ret;
}
"""


def test_address_spaces() -> None:
    """A generic address lies in one space, at any offset in it, and goes back to what it came from."""
    spaces = ("global", "const", "shared", "local")
    lines = []
    for index, space in enumerate((*spaces, "global")):
        back = f"cvta.to.{space}.u64 %back, %x{index}; setp.eq.u64 %p, %back, %a{index};"
        lines += [f"{back} selp.u32 %bit, 1, 0, %p; shl.b32 %bits, %bits, 1; or.b32 %bits, %bits, %bit;"]
        if space == "const":
            # Global and const memory are one space on this machine.
            continue
        lines.append(f"add.u64 %x{index}, %x{index}, %at;")
        for other in ("global", "shared", "local"):
            test = f"isspacep.{other} %p, %x{index}; selp.u32 %bit, 1, 0, %p;"
            lines.append(f"{test} shl.b32 %bits, %bits, 1; or.b32 %bits, %bits, %bit;")
    want = 0b1_100_1_1_010_1_001_1_100
    for width in (16, 32, 1):
        machine = device(width)
        given, out = machine.zeros((16,), np.uint64), machine.zeros((16,), np.uint32)
        machine.load_ptx(SPACES.replace("BODY", "\n".join(lines)))["k"].launch(1, 16, (given, out))
        assert [f"{bits:b}" for bits in out.download()] == [f"{want:b}"] * 16
