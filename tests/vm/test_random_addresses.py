"""Random arithmetic on addresses, in 32 and 64 bits, with lanes far outside that are not active.

What every thread's address is, exactly, Python says. The threads that may access are any of those whose
address is inside and aligned; they must get what lies there. With one more thread, it must be named.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from nnkit.device.virtual import VirtualDevice
from nnkit.errors import DeviceMemoryError
from tests.support.stress import examples

THREADS = (64, 37, 48)
BYTES = 512
NEAR = (0, 1, 2, 3, 4, 5, 8, 12, 16, 60, 64, 252, 256, 1 << 16, 1 << 28, 1 << 29, 1 << 30, (1 << 31) - 1)
TYPES = {"u8": (1, 1), "u16": (2, 1), "u32": (4, 1), "u64": (8, 1), "v2.u32": (4, 2), "v4.u32": (4, 4)}


def word(r: random.Random, bits: int) -> int:
    """A number near those where something may wrap."""
    value = r.choice(NEAR) + r.choice((0, 0, 1, -1))
    if bits == 64 and r.random() < 0.3:
        value <<= r.choice((30, 31, 32, 33))
    return value * r.choice((1, -1)) % (1 << bits)


@dataclass
class Program:
    """PTX, and every thread's address within its space, before what `shift` adds; in registers of `bits`."""

    lines: list[str]
    values: list[int]
    bits: int


def operation(
    r: random.Random, bits: int, new: str, old: str, parameters: tuple[int, int]
) -> tuple[str, Callable[[int], int]]:
    """One line of PTX, and what it computes."""
    c, factor, which = word(r, bits), r.choice((1, 2, 4, 8, 3, 12, 16)), r.randrange(2)
    by, mask, flip = r.choice((1, 2, 3, 4, 29, 30)), r.choice((3, 7, 63, -4, -8)), r.choice((1, 2, 3, 4, 12))
    p, s = parameters[which], f"s{bits}"
    given = f"add.s32 {new}, {old}, %p{which};"
    if bits == 64:
        p -= p >> 31 << 32
        given = f"cvt.s64.s32 {new}, %p{which}; add.s64 {new}, {old}, {new};"
    return r.choice(
        [
            (given, lambda v: v + p),
            (f"add.{s} {new}, {old}, {c};", lambda v: v + c),
            (f"sub.{s} {new}, {old}, {c};", lambda v: v - c),
            (f"sub.{s} {new}, {c}, {old};", lambda v: c - v),
            (f"mul.lo.{s} {new}, {old}, {c};", lambda v: v * c),
            (f"mul.lo.{s} {new}, {old}, {factor};", lambda v: v * factor),
            (f"shl.b{bits} {new}, {old}, {by};", lambda v: v << by),
            (f"and.b{bits} {new}, {old}, {mask};", lambda v: v & mask),
            (f"xor.b{bits} {new}, {old}, {flip};", lambda v: v ^ flip),
            (f"rem.u{bits} {new}, {old}, {factor};", lambda v: v % factor),
            (f"div.u{bits} {new}, {old}, {factor};", lambda v: v // factor),
        ]
    )


def arithmetic(r: random.Random, threads: int, step: int, parameters: tuple[int, int]) -> Program:
    """A chain of operations from the thread's number to an address; half of them are plain indices."""
    lines = ["mov.u32 %x0, %tid.x;"]
    values, bits, now = list(range(threads)), 32, "%x0"
    is_plain = r.random() < 0.5
    for number in range(1, 2 if is_plain else r.randint(2, 7)):
        old, now = now, f"%{'x' if bits == 32 else 'y'}{number}"
        if bits == 32 and r.random() < 0.3:
            how, factor = r.choice("su"), step if is_plain else r.choice((1, 2, 4, 8, 16, 24))
            values = [(v - (v >> 31 << 32) if how == "s" else v) * factor % (1 << 64) for v in values]
            bits, now = 64, f"%y{number}"
            lines.append(f"mul.wide.{how}32 {now}, {old}, {factor};")
            continue
        line, compute = operation(r, bits, now, old, parameters)
        if is_plain:
            line, compute = f"mul.lo.s32 {now}, {old}, {step};", lambda v: v * step
        lines.append(line)
        values = [compute(v) % (1 << bits) for v in values]
    lines.append(f"mov.b{bits} %{'a' if bits == 32 else 'wa'}, {now};")
    return Program(lines, values, bits)


def source(p: Program, space: str, type_: str, writes: bool, offset: int, known: int | None) -> str:
    """A kernel (out, in, active, shift, p0, p1): all spaces hold the 512 bytes of `in` at first."""
    size, count = TYPES[type_]
    base = "%a" if p.bits == 32 else "%wa"
    fill = {"global": "", "shared": "st.shared.u32 [%t0], %v0;", "local": "st.local.u32 [%t0], %v0;"}[space]
    own = "%t" if size < 8 else "%l"
    names = ", ".join(f"{own}{n}" for n in range(count))
    parts = f"{{{names}}}" if count > 1 else names
    shift = (
        f"add.s{p.bits} {base}, {base}, {known};"
        if known is not None
        else f"add.s{p.bits} {base}, {base}, %s{p.bits};"
    )
    begin = {"global": "ld.param.u64 %b, [in]; add.s64 %wa, %wa, %b;"}.get(space, "")
    word_ = "u64" if size == 8 else "u32"
    loaded = "".join(f"st.global.{word_} [%o+{8 * n}], {own}{n};" for n in range(count))
    given = "".join(f"ld.global.{word_} {own}{n}, [%o+{8 * n}];" for n in range(count))
    access = (
        f"st.{space}.{type_} [{base}+{offset}], {parts};"
        if writes
        else f"ld.{space}.{type_} {parts}, [{base}+{offset}];"
    )
    return f""".version 8.3
.target sm_90
.address_size 64
.visible .entry k(.param .u64 out, .param .u64 in, .param .u64 active, .param .u64 shift,
                  .param .u32 shift32, .param .u32 p0, .param .u32 p1) {{
    .reg .b32 %x<20>, %t<4>, %p<2>, %v<4>, %a, %s32; .reg .b64 %y<20>, %l<4>, %o, %b, %i, %wa, %s64, %w;
    .reg .pred %q, %on;
    .shared .align 16 .b8 s[{BYTES}];
    .local .align 16 .b8 l[{BYTES}];
    ld.param.u32 %p0, [p0];
    ld.param.u32 %p1, [p1];
    ld.param.u32 %s32, [shift32];
    ld.param.u64 %s64, [shift];
    ld.param.u64 %i, [in];
    mov.u32 %t0, s;
    mov.u32 %t0, 0;
fill:
    cvt.u64.u32 %w, %t0;
    add.s64 %w, %w, %i;
    ld.global.u32 %v0, [%w];
    {fill}
    add.s32 %t0, %t0, 4;
    setp.lt.u32 %q, %t0, {BYTES};
    @%q bra fill;
    bar.sync 0;
    mov.u32 %v1, %tid.x;
    mul.wide.u32 %w, %v1, 4;
    ld.param.u64 %b, [active];
    add.s64 %b, %b, %w;
    ld.global.u32 %v2, [%b];
    setp.ne.s32 %on, %v2, 0;
    mul.wide.u32 %w, %v1, 32;
    ld.param.u64 %o, [out];
    add.s64 %o, %o, %w;
    {chr(10).join("    " + line for line in p.lines).strip()}
    {shift}
    {begin}
    @!%on bra done;
    {given if writes else ""}
    {access}
    {"" if writes else loaded}
done:
    bar.sync 0;
    {copied(space) if writes else ""}
    ret;
}}"""


def copied(space: str) -> str:
    """What the shared or local memory of thread 0 holds at the end, into `in`; global memory is `in`."""
    if space == "global":
        return ""
    return f"""setp.ne.s32 %on, %v1, 0;
    @%on bra end;
    mov.u32 %t0, 0;
copy:
    cvt.u64.u32 %w, %t0;
    add.s64 %w, %w, %i;
    ld.{space}.u32 %v0, [%t0];
    st.global.u32 [%w], %v0;
    add.s32 %t0, %t0, 4;
    setp.lt.u32 %q, %t0, {BYTES};
    @%q bra copy;
end:"""


DEVICES: dict[int, VirtualDevice] = {}


def device(width: int) -> VirtualDevice:
    """One for each width of vectors."""
    if width not in DEVICES:
        DEVICES[width] = VirtualDevice(threads=1, width=width)
    return DEVICES[width]


@pytest.mark.parametrize("seed", range(examples(30)))
def test_active_threads_alone_count(seed: int) -> None:
    r = random.Random(seed)
    threads, parameters = r.choice(THREADS), (word(r, 32), word(r, 32))
    space, type_ = r.choice(("shared", "shared", "local", "global")), r.choice(list(TYPES))
    writes, virtual = r.random() < 0.4, device(r.choice((16, 16, 32, 8)))
    size, count = TYPES[type_]
    step = size * count
    p = arithmetic(r, threads, step, parameters)
    while space == "global" and p.bits == 32:
        p = arithmetic(r, threads, step, parameters)
    modulus = 1 << p.bits
    lucky, offset = r.randrange(threads), r.choice((0, 0, 4, -4, 64, -256, 1 << 20, -(1 << 30))) * step // 4
    shift = (r.choice((0, BYTES - step, r.randrange(0, BYTES, step))) - p.values[lucky] - offset) % modulus
    at = [(value + shift + offset) % modulus for value in p.values]
    inside = [a <= BYTES - step and a % step == 0 for a in at]
    # Stores of two threads to one place would leave either's value.
    first = {a: t for t, a in reversed(list(enumerate(at)))}
    keep = r.choice((1.0, 0.7, 0.3))
    active = [
        ok and r.random() < keep and (not writes or first[a] == t)
        for t, (a, ok) in enumerate(zip(at, inside, strict=True))
    ]
    if space == "local" and writes:
        active[1:] = [False] * (threads - 1)
    text = source(p, space, type_, writes, offset, shift if r.random() < 0.4 else None)
    kernel = virtual.load_ptx(text)["k"]
    numbers = np.random.default_rng(seed)
    content, given = (
        numbers.integers(0, 256, BYTES, np.uint8),
        numbers.integers(0, 256, (threads, 4, 8), np.uint8),
    )

    def launch(active: list[bool]) -> tuple[np.ndarray, np.ndarray]:
        out, memory = virtual.upload(given), virtual.upload(content)
        on = virtual.upload(np.array(active, np.int32))
        kernel.launch(
            1,
            threads,
            (out, memory, on, np.uint64(shift), np.uint32(shift % (1 << 32)), *map(np.uint32, parameters)),
        )
        return out.download(), memory.download()

    out, memory = launch(active)
    expected, result = content.copy(), given.copy()
    for t in range(threads):
        for n in range(count if active[t] else 0):
            place = at[t] + n * size
            if writes:
                expected[place : place + size] = given[t, n, :size]
            else:
                result[t, n, : max(size, 4)] = 0
                result[t, n, :size] = content[place : place + size]
    assert (out == result).all(), (seed, text)
    assert (memory == expected).all(), (seed, text)
    outside = [t for t in range(threads) if not inside[t]]
    for t in r.sample(outside, min(2, len(outside))):
        with pytest.raises(
            DeviceMemoryError, match=rf"thread \({t}, 0, 0\): (load|store) of {step} bytes at {space}"
        ):
            launch([t == other or on for other, on in enumerate(active)])
