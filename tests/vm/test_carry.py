"""Sums and products longer than a register, through the carry flag, against Python's integers."""

import itertools
import random
from collections.abc import Callable

import numpy as np
import pytest

from nnkit.device.virtual import VirtualArray, VirtualDevice

EDGES = [0, 1, (1 << 128) - 1, (1 << 128) - 2, 1 << 127, (1 << 64) - 1, 1 << 64, (1 << 96) - 1, 0xFFFFFFFF]
COUNT = 200

WIDE = r"""
typedef unsigned __int128 wide;
extern "C" __global__ void wide_arithmetic(
    const wide *a, const wide *b, wide *sum, wide *difference, wide *product)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    sum[i] = a[i] + b[i];
    difference[i] = a[i] - b[i];
    product[i] = a[i] * b[i];
}
"""

DIVISION = r"""
typedef __int128 wide;
extern "C" __global__ void division(
    const wide *a, const wide *b, wide *quotient, wide *remainder, wide *third)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    quotient[i] = a[i] / b[i];
    remainder[i] = a[i] % b[i];
    third[i] = a[i] / 3;
}
"""

CHAINS = r"""
struct four { unsigned x, y, z, w; };

extern "C" __global__ void chains(const four *a, const four *b, four *sum, four *difference, four *square)
{
    const int i = threadIdx.x;
    const four p = a[i], q = b[i];
    four s, d, m;
    asm("add.cc.u32 %0, %4, %8; addc.cc.u32 %1, %5, %9; addc.cc.u32 %2, %6, %10; addc.u32 %3, %7, %11;"
        : "=r"(s.x), "=r"(s.y), "=r"(s.z), "=r"(s.w)
        : "r"(p.x), "r"(p.y), "r"(p.z), "r"(p.w), "r"(q.x), "r"(q.y), "r"(q.z), "r"(q.w));
    asm("sub.cc.u32 %0, %4, %8; subc.cc.u32 %1, %5, %9; subc.cc.u32 %2, %6, %10; subc.u32 %3, %7, %11;"
        : "=r"(d.x), "=r"(d.y), "=r"(d.z), "=r"(d.w)
        : "r"(p.x), "r"(p.y), "r"(p.z), "r"(p.w), "r"(q.x), "r"(q.y), "r"(q.z), "r"(q.w));
    // (x + y 2^32)^2: the two mixed products go to the middle, one after the other.
    asm("{ .reg .u32 lo, hi;\n\t"
        "mul.lo.u32 %0, %4, %4; mul.hi.u32 hi, %4, %4;\n\t"
        "mad.lo.cc.u32 %1, %4, %5, hi; madc.hi.u32 %2, %4, %5, 0;\n\t"
        "mad.lo.cc.u32 %1, %4, %5, %1; madc.hi.cc.u32 %2, %4, %5, %2; addc.u32 %3, 0, 0;\n\t"
        "mad.lo.cc.u32 %2, %5, %5, %2; madc.hi.u32 %3, %5, %5, %3; }"
        : "=&r"(m.x), "=&r"(m.y), "=&r"(m.z), "=&r"(m.w) : "r"(p.x), "r"(p.y));
    sum[i] = s;
    difference[i] = d;
    square[i] = m;
}
"""


def numbers(seed: int) -> list[int]:
    """Edge values, then random ones."""
    generator = random.Random(seed)
    return [generator.choice([*EDGES, generator.getrandbits(128)]) for _ in range(COUNT)]


def upload(device: VirtualDevice, values: list[int]) -> VirtualArray:
    words = [value >> shift & (1 << 64) - 1 for value in values for shift in (0, 64)]
    return device.upload(np.array(words, np.uint64))


def integers(array: VirtualArray) -> list[int]:
    words = array.download()
    return [int(low) | int(high) << 64 for low, high in words.reshape(-1, 2)]


@pytest.mark.parametrize("width", [32, 16, 1])
def test_carries_reach_the_next_word(width: int) -> None:
    device = VirtualDevice(width=width)
    a, b = numbers(1), numbers(2)
    mask = (1 << 128) - 1
    low = (1 << 64) - 1
    expected = {
        "sum": [x + y & mask for x, y in zip(a, b, strict=True)],
        "difference": [x - y & mask for x, y in zip(a, b, strict=True)],
        "product": [x * y & mask for x, y in zip(a, b, strict=True)],
        "square": [(x & low) ** 2 for x in a],
    }
    given = upload(device, a), upload(device, b)
    for source, kernel, names in (
        (WIDE, "wide_arithmetic", ("sum", "difference", "product")),
        (CHAINS, "chains", ("sum", "difference", "square")),
    ):
        outputs = [device.zeros((2 * COUNT,), np.uint64) for _ in names]
        module = device.compile(source, options=["--device-int128"])
        module[kernel].launch(1, COUNT, (*given, *outputs))
        for name, output in zip(names, outputs, strict=True):
            assert integers(output) == expected[name], name
    device.close()


def signed(value: int) -> int:
    return (value + (1 << 127)) % (1 << 128) - (1 << 127)


@pytest.mark.parametrize("width", [32, 16, 1])
def test_division_of_128_bits(width: int) -> None:
    """NVRTC's division asks by `addc` whether `subc.cc` borrowed: one flag serves sums and differences."""
    device = VirtualDevice(width=width)
    generator = random.Random(3)
    a = numbers(1)
    b = [(value >> generator.randrange(128)) or 1 for value in numbers(2)]
    outputs = [device.zeros((2 * COUNT,), np.uint64) for _ in range(3)]
    module = device.compile(DIVISION, options=["--device-int128"])
    module["division"].launch(1, COUNT, (upload(device, a), upload(device, b), *outputs))
    quotient, remainder, third = map(integers, outputs)
    for x, y, q, r, t in zip(map(signed, a), map(signed, b), quotient, remainder, third, strict=True):
        sign = -1 if (x < 0) != (y < 0) else 1
        expected = sign * (abs(x) // abs(y))  # towards zero
        assert signed(q) == signed(expected), (x, y)
        assert signed(r) == x - expected * y, (x, y)
        assert signed(t) == (1 if x >= 0 else -1) * (abs(x) // 3), x
    device.close()


@pytest.mark.parametrize(
    ("first", "second", "flag"),
    [
        ("add.cc.u32 low, %1, %2;", "addc.u32 %0, 0, 0;", lambda a, b: a + b > 0xFFFFFFFF),
        ("sub.cc.u32 low, %1, %2;", "addc.u32 %0, 0, 0;", lambda a, b: a >= b),
        ("sub.cc.u32 low, %1, %2;", "subc.u32 %0, 1, 0;", lambda a, b: a >= b),
        ("add.cc.u32 low, %1, %2;", "subc.u32 %0, 1, 0;", lambda a, b: a + b > 0xFFFFFFFF),
        ("add.cc.u32 low, %1, 0; subc.cc.u32 low, %1, %2;", "addc.u32 %0, 0, 0;", lambda a, b: a > b),
    ],
)
def test_one_flag_for_sums_and_differences(first: str, second: str, flag: Callable[[int, int], bool]) -> None:
    device = VirtualDevice()
    source = f"""
    extern "C" __global__ void k(const unsigned *a, const unsigned *b, unsigned *out)
    {{
        const int i = threadIdx.x;
        asm("{{ .reg .u32 low; {first} {second} }}" : "=r"(out[i]) : "r"(a[i]), "r"(b[i]));
    }}"""
    values = [0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF]
    a, b = (np.array(side, np.uint32) for side in zip(*itertools.product(values, values), strict=True))
    out = device.zeros((len(a),), np.uint32)
    device.compile(source)["k"].launch(1, len(a), (a, b, out))
    assert out.download().tolist() == [int(flag(int(x), int(y))) for x, y in zip(a, b, strict=True)]
    device.close()


def test_a_carry_of_uniform_words_stays_a_scalar() -> None:
    """All lanes the same: the flag is one bit then, and must not be lost on the way to a vector."""
    device = VirtualDevice()
    source = r"""
    extern "C" __global__ void k(unsigned a, unsigned b, unsigned *out)
    {
        unsigned low, high;
        asm("add.cc.u32 %0, %2, %3; addc.u32 %1, %4, 5;"
            : "=r"(low), "=r"(high) : "r"(a), "r"(b), "r"(threadIdx.x));
        out[2 * threadIdx.x] = low;
        out[2 * threadIdx.x + 1] = high;
    }"""
    out = device.zeros((64,), np.uint32)
    device.compile(source)["k"].launch(1, 32, (np.uint32(0xFFFFFFFF), np.uint32(2), out))
    found = out.download().reshape(-1, 2)
    assert np.array_equal(found[:, 0], np.full(32, 1))
    assert np.array_equal(found[:, 1], np.arange(32) + 6)
    device.close()
