"""Integers as bits of a width: those at which instructions go wrong, and how results fit in."""

from itertools import product

import numpy as np

from tests.support.opcodes import Bits

COUNTS = [0, 1, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 128, 255, 256, 1 << 16, (1 << 32) - 1]
"""Amounts to shift by, positions and lengths of bit fields."""


def edges(bits: int) -> list[int]:
    """Numbers at which integer instructions go wrong, as bits."""
    if bits == 1:
        return [0, 1]
    top = 1 << (bits - 1)
    found = [0, 1, 2, 3, 7, 10, -1, -2, -3, top, top + 1, top - 1, top - 2, top >> 1, 0x5555, 0xAAAA, 0x00FF]
    found += [(1 << power) + d for power in (16, 23, 24, 31, 32, 53) for d in (-1, 0, 1)]
    found += COUNTS
    return sorted({value & ((1 << bits) - 1) for value in found})


def operands(signature: tuple[int, ...]) -> list[Bits]:
    """All pairs of edges, or a sample of the tuples; and random bits, of random lengths too."""
    generator = np.random.default_rng(sum(signature))
    rows = list(product(*map(edges, signature)))
    if len(rows) > 1600:
        rows = [rows[index] for index in generator.choice(len(rows), 1600, replace=False)]
    columns = []
    for column, bits in zip(zip(*rows, strict=True), signature, strict=True):
        words = generator.integers(0, 1 << 64, 400, np.uint64)
        lengths = generator.integers(0, bits, 400).astype(np.uint64)
        lengths[:100] = 0
        random = (words >> np.uint64(64 - bits)) >> lengths
        both = np.concatenate([np.array(column, np.uint64), random])
        columns.append(both.astype(f"u{4 if bits == 1 else bits // 8}"))
    return columns


def bits_in(type_: str) -> int:
    return int(type_[1:])


def unsigned(value: int, bits: int) -> int:
    return value & ((1 << bits) - 1)


def signed(value: int, bits: int) -> int:
    value = unsigned(value, bits)
    return value - (1 << bits) if value >> (bits - 1) else value


def limits(type_: str) -> tuple[int, int]:
    """The smallest and the largest value."""
    bits = bits_in(type_)
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if type_[0] == "s" else (0, (1 << bits) - 1)


def clamped(value: int, type_: str) -> int:
    low, high = limits(type_)
    return min(max(value, low), high)
