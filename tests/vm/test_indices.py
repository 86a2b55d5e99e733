"""Indices that wrap at 2^31 and 2^32, and everything that is loaded and stored through patterns of indices.

Lanes of one vector may stand on both sides of a wrap; what one register holds for all must be exact anyway.
"""

import random
from collections.abc import Callable
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnkit.errors import KernelError
from tests.support.programs.straight import NEAR, Maker, Thread
from tests.support.stress import device, examples

HEAD = ".version 8.3\n.target sm_90\n.address_size 64\n"
BLOCKS = [(32, 1, 1), (37, 1, 1), (8, 8, 1), (16, 16, 1), (32, 8, 1), (5, 7, 1), (3, 4, 5), (64, 1, 1)]
WIDTHS = (32, 16, 1)

Words = npt.NDArray[np.uint64]


def coordinates(block: tuple[int, int, int]) -> dict[str, Words]:
    """Every thread's numbers, in the order in which they stand in vectors."""
    x, y, z = block
    t = np.arange(x * y * z, dtype=np.uint64)
    return {"t": t, "x": t % x, "y": t // x % y, "z": t // (x * y)}


@pytest.mark.slow
@settings(max_examples=examples(8), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, 1 << 32),
    st.sampled_from(BLOCKS),
    st.sampled_from(WIDTHS),
    st.tuples(*[st.sampled_from(NEAR)] * 4),
)
def test_random_arithmetic_is_exact(
    seed: int, block: tuple[int, int, int], width: int, parameters: tuple[int, ...]
) -> None:
    program = Maker(random.Random(seed), len(parameters)).grow(90)
    x, y, z = block
    threads, grid = x * y * z, 2
    words = np.random.default_rng(seed).integers(0, 1 << 32, threads, np.uint32)
    virtual = device(width)
    out = virtual.zeros((len(program.registers), grid * threads), np.uint64)
    kernel = virtual.load_ptx(program.kernel(len(parameters)))["k"]
    kernel.launch(grid, block, (out, virtual.upload(words), *map(np.uint32, parameters)))
    found = out.download()
    for at in range(grid * threads):
        block_x, t = divmod(at, threads)
        place = Thread((t % x, t // x % y, t // (x * y)), (block_x, 0, 0), block, parameters, int(words[t]))
        for number, value in enumerate(program.values(place)):
            assert found[number, at] == value, (at, program.lines[number], hex(found[number, at]), hex(value))


# -- widening -----------------------------------------------------------------------------------------------


def sign(index: Words) -> Words:
    """A 32-bit number, its sign repeated up to 64 bits."""
    return index.astype(np.uint32).astype(np.int32).astype(np.int64).astype(np.uint64)


WIDENINGS: dict[str, Callable[[Words], Words]] = {
    "mul.wide.u32 {0}, {1}, 4;": lambda i: i * 4,
    "mul.wide.s32 {0}, {1}, 4;": lambda i: sign(i) * np.uint64(4),
    "cvt.u64.u32 {0}, {1};": lambda i: i,
    "cvt.s64.s32 {0}, {1};": sign,
    "cvt.u64.u32 {0}, {1}; shl.b64 {0}, {0}, 3;": lambda i: i << np.uint64(3),
    "cvt.s64.s32 {0}, {1}; shl.b64 {0}, {0}, 3;": lambda i: sign(i) << np.uint64(3),
    "mad.wide.u32 {0}, {1}, 12, 1000;": lambda i: i * 12 + 1000,
    "mad.wide.s32 {0}, {1}, 12, 1000;": lambda i: sign(i) * np.uint64(12) + np.uint64(1000),
    "mul.wide.s32 {0}, {1}, -4;": lambda i: np.uint64(0) - sign(i) * np.uint64(4),
    "mul.wide.u32 {0}, {1}, -4;": lambda i: i * np.uint64((1 << 32) - 4),
    "cvt.s64.s32 {0}, {1}; add.s64 {0}, {0}, %d1; sub.s64 {0}, {0}, %d1; and.b64 {0}, {0}, 1023;": (
        lambda i: sign(i) & np.uint64(1023)
    ),
}

PATTERNS: dict[str, Callable[[Words], npt.NDArray[np.integer]]] = {
    "mov.u32 {0}, {1};": lambda t: t,
    "div.u32 {0}, {1}, 3;": lambda t: t // 3,
    "rem.u32 {0}, {1}, 5;": lambda t: t % 5,
    "and.b32 {0}, {1}, 7;": lambda t: t & 7,
    "shr.u32 {0}, {1}, 3;": lambda t: t >> 3,
    "xor.b32 {0}, {1}, 5;": lambda t: t ^ 5,
    "or.b32 {0}, {1}, 64;": lambda t: t | 64,
    "shl.b32 {0}, {1}, 2; or.b32 {0}, {0}, 1;": lambda t: t * 4 | 1,
    "sub.u32 {0}, 255, {1};": lambda t: 255 - t,
    "and.b32 {0}, {1}, -4;": lambda t: t & 0xFFFFFFFC,
    "xor.b32 {0}, {1}, 15;": lambda t: t ^ 15,
    "mul.lo.u32 {0}, {1}, 3;": lambda t: t * 3,
}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("block", BLOCKS)
def test_widening_is_exact_on_both_sides_of_a_wrap(block: tuple[int, int, int], width: int) -> None:
    threads = coordinates(block)
    axes = ["x", "y", "z"] if block[1] > 1 else ["x"]
    cases = list(product(axes, list(PATTERNS)[:: 1 if block[1] == 1 else 3], WIDENINGS))
    lines = [f"mov.u32 %a{axis}, %tid.{axis};" for axis in axes]
    for axis, pattern, widening in cases:
        lines += [
            pattern.format("%i", f"%a{axis}"),
            "add.u32 %i, %i, %base;",
            widening.format("%d0", "%i"),
            "st.global.u64 [%out], %d0; add.s64 %out, %out, %step;",
        ]
    count = threads["t"].size
    text = f"""{HEAD}.visible .entry k(.param .u64 out, .param .u32 base) {{
        .reg .b32 %base, %i, %ax, %ay, %az, %t, %n; .reg .b64 %out, %step, %d<3>;
        ld.param.u64 %out, [out]; ld.param.u32 %base, [base]; cvt.u64.u32 %d1, %base;
        mov.u32 %ax, %tid.x; mov.u32 %ay, %tid.y; mov.u32 %az, %tid.z;
        mad.lo.s32 %t, %az, {block[1]}, %ay; mad.lo.s32 %t, %t, {block[0]}, %ax;
        mul.wide.s32 %d2, %t, 8; add.s64 %out, %out, %d2; mov.u64 %step, {8 * count};
        {chr(10).join(lines)}
        ret; }}"""
    virtual = device(width)
    kernel = virtual.load_ptx(text)["k"]
    for base in (0, (1 << 31) - 5, (1 << 31) - 260, (1 << 32) - 5, (1 << 32) - 40, 1 << 31):
        out = virtual.zeros((len(cases), count), np.uint64)
        kernel.launch(1, block, (out, np.uint32(base)))
        for row, (axis, pattern, widening) in zip(out.download(), cases, strict=True):
            index = (PATTERNS[pattern](threads[axis]).astype(np.uint64) + np.uint64(base)) & np.uint64(
                0xFFFFFFFF
            )
            np.testing.assert_array_equal(
                row, WIDENINGS[widening](index), f"{axis} {pattern} {widening} {base}"
            )


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    ("kind", "base", "bias"),
    [("s", -20, 20), ("u", (1 << 31) - 20, 20 - (1 << 31)), ("u", (1 << 32) - 20, 0)],
)
def test_access_where_the_lanes_of_a_vector_straddle_a_wrap(
    kind: str, base: int, bias: int, width: int
) -> None:
    # Guarded as a kernel guards: only the lanes whose index is below the array's length go on.
    text = f"""{HEAD}.visible .entry k(.param .u64 in, .param .u64 out, .param .u32 base, .param .u32 n) {{
        .reg .b32 %base, %i, %n, %v, %t; .reg .b64 %in, %out, %d<4>; .reg .pred %p;
        ld.param.u64 %in, [in]; ld.param.u64 %out, [out]; ld.param.u32 %base, [base]; ld.param.u32 %n, [n];
        mov.u32 %t, %tid.x; add.u32 %i, %t, %base;
        setp.ge.{kind}32 %p, %i, %n; @%p bra END;
        mul.wide.{kind}32 %d0, %i, 4; add.s64 %d1, %in, %d0; ld.global.u32 %v, [%d1];
        add.u32 %v, %v, 1; add.s64 %d2, %out, %d0; st.global.u32 [%d2], %v;
        END: ret; }}"""
    virtual = device(width)
    numbers = np.arange(200, dtype=np.uint32) * 3
    given, out = virtual.upload(numbers), virtual.zeros((200,), np.uint32)
    limit = base + 64 if bias else 44
    addresses = (np.uint64((array.address + 4 * bias) % (1 << 64)) for array in (given, out))
    virtual.load_ptx(text)["k"].launch(
        1, 64, (*addresses, np.uint32(base % (1 << 32)), np.uint32(limit % (1 << 32)))
    )
    index = (np.arange(64) + base) % (1 << 32) if kind == "u" else np.arange(64) + base
    index = index[index < limit] + bias
    expected = np.zeros(200, np.uint32)
    expected[index] = numbers[index] + 1
    np.testing.assert_array_equal(out.download(), expected)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_short_is_not_taken_for_positive(width: int) -> None:
    text = f"""{HEAD}.visible .entry k(.param .u64 out, .param .u32 a) {{
        .reg .b64 %out; .reg .b32 %r<3>; .reg .b16 %h;
        ld.param.u64 %out, [out]; ld.param.u32 %r0, [a]; cvt.u16.u32 %h, %r0; mul.wide.s16 %r1, %h, 2;
        shr.s32 %r2, %r1, 17; st.global.u32 [%out], %r2; ret; }}"""
    virtual = device(width)
    out = virtual.zeros((1,), np.int32)
    virtual.load_ptx(text)["k"].launch(1, 1, (out, np.uint32(0xFFFF)))
    assert out.download()[0] == -1


@pytest.mark.parametrize("width", WIDTHS)
def test_steps_that_cancel_behind_a_possible_wrap(width: int) -> None:
    text = f"""{HEAD}.visible .entry k(.param .u64 out, .param .u32 a, .param .u32 b) {{
        .reg .b64 %out, %d<5>; .reg .b32 %r<6>;
        ld.param.u64 %out, [out]; ld.param.u32 %r0, [a]; ld.param.u32 %r1, [b]; mov.u32 %r2, %tid.x;
        add.s32 %r3, %r2, %r0; add.s32 %r4, %r2, %r1; cvt.s64.s32 %d0, %r3; cvt.s64.s32 %d1, %r4;
        sub.s64 %d2, %d0, %d1; shl.b64 %d2, %d2, 2; add.s64 %d3, %out, %d2; ld.global.u32 %r5, [%d3+128];
        mul.wide.u32 %d4, %r2, 4; add.s64 %d4, %out, %d4; st.global.u32 [%d4], %r5; ret; }}"""
    virtual = device(width)
    out = virtual.upload(np.arange(64, dtype=np.uint32))
    virtual.load_ptx(text)["k"].launch(1, 32, (out, np.uint32((1 << 31) - 5), np.uint32((1 << 31) - 5)))
    np.testing.assert_array_equal(out.download()[:32], 32)


LOADS = {
    "ld.param.u32 %d, [n];": 0xFFFFFFFF,
    "ld.param.b32 %d, [n];": 0xFFFFFFFF,
    "ld.param.s32 %d, [n];": -1,
    "ld.global.u32 %d, [%in];": 0xFFFFFFFF,
    "ld.global.f32 %d, [%in];": 0xFFFFFFFF,
    "ld.global.v2.u32 {%other, %d}, [%in];": 0xFFFFFFFF,
    "ld.shared.u32 %d, [cell];": 0xFFFFFFFF,
    "ld.global.b16 %d, [%in];": 0xFFFF,
    "ld.global.s16 %d, [%in];": -1,
    "ld.global.u16 %short, [%in];": 0xFFFF,
    "ld.global.u8 %short, [%in];": 0xFF,
}
"""Loads into registers that are wider than what is loaded, which is all ones, and the number found there."""


def loaded(load: str, behind: str, extent: int = 64) -> str:
    """A kernel that loads in one block, and stores in the next one what is made of it."""
    short = "cvt.u64.u32 %d, %short;" if "%short" in load else ""
    return f"""{HEAD}
.visible .entry k(.param .u64 in, .param .u64 out, .param .u32 n) {{
.shared .align 8 .b8 cell[8]; .shared .align 8 .b8 table[{extent}];
.reg .b64 %in, %out, %d, %e, %place; .reg .b32 %short, %other, %word;
ld.param.u64 %in, [in]; ld.param.u64 %out, [out];
ld.global.u32 %word, [%in]; st.shared.u32 [cell], %word;
{load} bra next;
next: {short} {behind} st.global.u64 [%out], %e; ret; }}"""


@pytest.mark.parametrize("load", LOADS)
def test_what_is_loaded_into_a_wider_register_is_in_its_range(load: str) -> None:
    """A sum's bits from 32 on: the range of what was loaded must not say that there are none."""
    virtual = device(32)
    given, out = virtual.upload(np.array([0xFFFFFFFF] * 2, np.uint32)), virtual.zeros((1,), np.int64)
    behind = "add.s64 %e, %d, 2147483648; shr.s64 %e, %e, 32;"
    virtual.load_ptx(loaded(load, behind))["k"].launch(1, 32, (given, out, np.uint32(0xFFFFFFFF)))
    assert out.download()[0] == (LOADS[load] + (1 << 31)) >> 32


@pytest.mark.parametrize("load", [load for load, number in LOADS.items() if number == 0xFFFFFFFF])
def test_an_index_from_a_wider_register_is_checked(load: str) -> None:
    virtual = device(32)
    given, out = virtual.upload(np.array([0xFFFFFFFF] * 2, np.uint32)), virtual.zeros((1,), np.int64)
    # From 0 to 31 if the number had 32 bits with a sign, but it is 47.
    behind = (
        "add.s64 %e, %d, 2147483648; shr.u64 %e, %e, 27; mov.u64 %place, table; add.s64 %place, %place, %e;"
    )
    behind += " ld.shared.u8 %e, [%place];"
    kernel = virtual.load_ptx(loaded(load, behind, extent=32))["k"]
    with pytest.raises(KernelError, match="out of bounds: it lies 15 bytes behind the end"):
        kernel.launch(1, 32, (given, out, np.uint32(0xFFFFFFFF)))
