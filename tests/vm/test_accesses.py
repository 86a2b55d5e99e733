"""Loads and stores through patterns of indices: gather, scatter, vectors, sub-words, masks, collisions."""

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.support.stress import device, examples

HEAD = ".version 8.3\n.target sm_90\n.address_size 64\n"
BLOCKS = [(32, 1, 1), (37, 1, 1), (8, 8, 1), (16, 16, 1), (32, 8, 1), (5, 7, 1), (3, 4, 5), (256, 1, 1)]
TYPES = ["u8", "s8", "u16", "s16", "u32", "u64"]

Numbers = npt.NDArray[np.int64]

PATTERNS: dict[str, tuple[str, Callable[[Numbers, Numbers, Numbers], Numbers]]] = {
    "t": ("mov.u32 %i, %t;", lambda t, x, y: t),
    "3": ("mov.u32 %i, 3;", lambda t, x, y: t * 0 + 3),
    "ctaid": ("mov.u32 %i, %ctaid.x; add.u32 %i, %i, 7;", lambda t, x, y: t * 0 + 7),
    "t / 3": ("div.u32 %i, %t, 3;", lambda t, x, y: t // 3),
    "t % 5": ("rem.u32 %i, %t, 5;", lambda t, x, y: t % 5),
    "t & 7": ("and.b32 %i, %t, 7;", lambda t, x, y: t & 7),
    "t >> 3": ("shr.u32 %i, %t, 3;", lambda t, x, y: t >> 3),
    "t ^ 5": ("xor.b32 %i, %t, 5;", lambda t, x, y: t ^ 5),
    "t | 64": ("or.b32 %i, %t, 64;", lambda t, x, y: t | 64),
    "t * 4 | 1": ("shl.b32 %i, %t, 2; or.b32 %i, %i, 1;", lambda t, x, y: t * 4 | 1),
    "255 - t": ("sub.u32 %i, 255, %t;", lambda t, x, y: 255 - t),
    "x": ("mov.u32 %i, %x;", lambda t, x, y: x),
    "y": ("mov.u32 %i, %y;", lambda t, x, y: y),
    "x * 4 + y": ("mad.lo.u32 %i, %x, 4, %y;", lambda t, x, y: x * 4 + y),
    "y * 33 + x": ("mad.lo.u32 %i, %y, 33, %x;", lambda t, x, y: y * 33 + x),
    "x ^ y": ("xor.b32 %i, %x, %y;", lambda t, x, y: x ^ y),
    "(t * 7 + 3) % 256": ("mad.lo.u32 %i, %t, 7, 3; and.b32 %i, %i, 255;", lambda t, x, y: (t * 7 + 3) % 256),
    "t + n - n": ("add.u32 %i, %t, %n; sub.u32 %i, %i, %n;", lambda t, x, y: t),
    "n - t": ("sub.u32 %i, %n, %t; add.u32 %i, %i, 20;", lambda t, x, y: 1000 + 20 - t),
    "t + 1000 - n": ("add.u32 %i, %t, 1000; sub.u32 %i, %i, %n;", lambda t, x, y: t),
}
LENGTH = 1100
N = 1000
"""The parameter %n, of which the machine knows nothing when it compiles."""


def kernel(type_: str, count: int, pattern: str, guard: str, space: str) -> str:
    """out[t] = in[i], then scattered[i] = mine[t], guarded; `in` and `scattered` lie in `space`."""
    size = int(type_[1:]) // 8
    # Elements of 8 bits live in registers of 16.
    bits = max(8 * size, 16)
    names = [f"%v{k}" for k in range(count)]
    value = f"{{{', '.join(names)}}}" if count > 1 else names[0]
    form = f"v{count}.{type_}" if count > 1 else type_
    step = size * count
    bytes_ = LENGTH * step
    copy_in = copy_out = ""
    arrays = "add.s64 %from, %in, %di; add.s64 %to, %scattered, %di;"
    if space == "shared":
        # All threads copy byte by byte, so that the copies themselves take no other path.
        turn = "setp.lt.u32 %q, %k, {n}; @%q bra {label}; bar.sync 0;"
        address = "cvt.u64.u32 %dk, %k; add.s64 %dt, {base}, %dk; mov.u64 %ds, window; add.s64 %ds, %ds, %dk;"
        copy_in = (
            f"mov.u32 %k, %t; IN: {address.format(base='%in')}"
            f"ld.global.u8 %w, [%dt]; st.shared.u8 [%ds], %w;"
            f"add.u32 %k, %k, %threads; {turn.format(n=bytes_, label='IN')}"
            f"mov.u32 %k, %t; ZERO: {address.format(base='%in')}"
            f"mov.u16 %w, 0; st.shared.u8 [%ds+{bytes_}], %w;"
            f"add.u32 %k, %k, %threads; {turn.format(n=bytes_, label='ZERO')}"
        )
        copy_out = (
            f"bar.sync 0; mov.u32 %k, %t; OUT: {address.format(base='%scattered')}"
            f"ld.shared.u8 %w, [%ds+{bytes_}]; st.global.u8 [%dt], %w;"
            f"add.u32 %k, %k, %threads; {turn.format(n=bytes_, label='OUT')}"
        )
        arrays = f"mov.u64 %from, window; add.s64 %from, %from, %di; add.s64 %to, %from, {bytes_};"
    return f"""{HEAD}
    .visible .entry k(
        .param .u64 in, .param .u64 scattered, .param .u64 out, .param .u64 mine, .param .u32 n) {{
    .reg .b32 %x, %y, %z, %t, %n, %i, %k, %a, %b, %threads; .reg .pred %p, %q; .reg .b16 %w;
    .reg .b64 %in, %scattered, %out, %mine, %di, %dt, %dk, %ds, %from, %to; .reg .b{bits} %v<4>;
    {f".shared .align 16 .b8 window[{2 * bytes_}];" if space == "shared" else ""}
    ld.param.u64 %in, [in]; ld.param.u64 %scattered, [scattered]; ld.param.u64 %out, [out];
    ld.param.u64 %mine, [mine]; ld.param.u32 %n, [n];
    mov.u32 %x, %tid.x; mov.u32 %y, %tid.y; mov.u32 %z, %tid.z; mov.u32 %a, %ntid.x; mov.u32 %b, %ntid.y;
    mad.lo.s32 %t, %z, %b, %y; mad.lo.s32 %t, %t, %a, %x;
    mul.lo.s32 %threads, %a, %b; mov.u32 %b, %ntid.z; mul.lo.s32 %threads, %threads, %b;
    {copy_in}
    {PATTERNS[pattern][0]}
    {guard} @%p bra END;
    mul.wide.s32 %di, %i, {step}; {arrays}
    ld.{space}.{form} {value}, [%from];
    mul.wide.s32 %dt, %t, {step}; add.s64 %out, %out, %dt; st.global.{form} [%out], {value};
    add.s64 %mine, %mine, %dt; ld.global.{form} {value}, [%mine];
    st.{space}.{form} [%to], {value};
    END: {copy_out} ret; }}"""


GUARDS: dict[str, tuple[str, Callable[[Numbers], npt.NDArray[np.bool_]]]] = {
    "": ("setp.eq.u32 %p, %n, 0;", lambda t: t >= 0),
    "t % 4 != 1": ("and.b32 %k, %t, 3; setp.eq.u32 %p, %k, 1;", lambda t: t % 4 != 1),
    "t < 21": ("setp.ge.u32 %p, %t, 21;", lambda t: t < 21),
}


@pytest.mark.slow
@pytest.mark.parametrize("space", ["global", "shared"])
@pytest.mark.parametrize("block", BLOCKS)
def test_patterns_of_indices(block: tuple[int, int, int], space: str) -> None:
    x, y, _ = block
    t = np.arange(math.prod(block))
    generator = random.Random(f"{block} {space}")
    for _ in range(examples(1)):
        for pattern in generator.sample(sorted(PATTERNS), 4):
            guard, type_ = generator.choice(sorted(GUARDS)), generator.choice(TYPES)
            count = generator.choice([1, 1, 2] if type_ == "u64" else [1, 1, 2, 4])
            element = np.dtype(f"{type_[0].replace('s', 'i')}{int(type_[1:]) // 8}")
            text = kernel(type_, count, pattern, GUARDS[guard][0], space)
            index, active = PATTERNS[pattern][1](t, t % x, t // x % y), GUARDS[guard][1](t)
            for width in (32, 16, 1):
                said = f"{pattern}, {type_} x {count}, {guard}, {space}, width {width}"
                check_one(text, block, width, element, count, index, active, said)


def check_one(
    text: str,
    block: tuple[int, int, int],
    width: int,
    element: np.dtype[Any],
    count: int,
    index: npt.NDArray[Any],
    active: npt.NDArray[Any],
    said: str,
) -> None:
    """Run it on one device and compare with NumPy; where indices collide, one of the values must be there."""
    generator = np.random.default_rng(7)
    data = generator.integers(0, 256, (LENGTH, count * element.itemsize), np.uint8).view(element)
    mine = generator.integers(0, 256, (index.size, count * element.itemsize), np.uint8).view(element)
    virtual = device(width)
    out, scattered = virtual.zeros(mine.shape, element), virtual.zeros(data.shape, element)
    virtual.load_ptx(text)["k"].launch(
        1, block, (virtual.upload(data), scattered, out, virtual.upload(mine), np.uint32(N))
    )
    expected = np.where(active[:, None], data[index], 0)
    np.testing.assert_array_equal(out.download(), expected, f"loaded: {said}")
    found = scattered.download()
    for place in range(LENGTH):
        writers = np.flatnonzero((index == place) & active)
        if writers.size:
            assert (mine[writers] == found[place]).all(axis=1).any(), (f"stored: {said}", place)
        else:
            assert not found[place].any(), (f"stored outside: {said}", place)
