"""Instructions on parts of a word, and the search for set bits, against Python's integers."""

import operator
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import numpy as np
import pytest

from tests.support.integers import operands, signed, unsigned
from tests.support.opcodes import EVERY_WAY, Bits, Case, check

Way = Callable[[int, int], int]


def parts(value: int, bits: int, kind: str) -> list[int]:
    """The parts of a word, the lowest first, as numbers."""
    found = [unsigned(value >> place, bits) for place in range(0, 32, bits)]
    return [signed(part, bits) for part in found] if kind == "s" else found


def together(values: list[int], bits: int) -> int:
    return sum(unsigned(value, bits) << bits * place for place, value in enumerate(values))


def by_halves(way: Way, kind: str) -> Way:
    def model(a: int, b: int) -> int:
        pairs = zip(parts(a, 16, kind), parts(b, 16, kind), strict=True)
        return together([way(x, y) for x, y in pairs], 16)

    return model


def not_negative(way: Way) -> Way:
    return lambda x, y: max(way(x, y), 0)


def halves() -> Iterator[Case]:
    for kind in "us":
        type_ = f"{kind}16x2"
        for name, way in (("add", operator.add), ("min", min), ("max", max)):
            yield Case(f"{name}.{type_}", "b32", ("b32", "b32"), by_halves(way, kind))
    for name, way in (("min", min), ("max", max)):
        positive = not_negative(way)
        yield Case(f"{name}.s16x2.relu", "b32", ("b32", "b32"), by_halves(positive, "s"))
        yield Case(f"{name}.relu.s16x2", "b32", ("b32", "b32"), by_halves(positive, "s"))
        yield Case(f"{name}.s32.relu", "s32", ("s32", "s32"), positive)


def packed(kind: str, a: int, b: int) -> int:
    least, most = (-(1 << 15), (1 << 15) - 1) if kind == "s" else (0, (1 << 16) - 1)
    return together([max(least, min(value, most)) for value in (b, a)], 16)


def packs() -> Iterator[Case]:
    for kind in "us":
        yield Case(f"cvt.pack.sat.{kind}16.s32", "b32", ("s32", "s32"), partial(packed, kind))


def dot(a_kind: str, b_kind: str, half: str, a: int, b: int, c: int) -> int:
    some = parts(b, 8, b_kind)[2:] if half == "hi" else parts(b, 8, b_kind)[:2]
    return c + sum(x * y for x, y in zip(parts(a, 16, a_kind), some, strict=True))


def dot_products() -> Iterator[Case]:
    for a_kind, b_kind, half in product("us", "us", ("lo", "hi")):
        result = "u32" if a_kind == b_kind == "u" else "s32"

        def model(
            a: int, b: int, c: int, a_kind: str = a_kind, b_kind: str = b_kind, half: str = half
        ) -> int:
            some = parts(b, 8, b_kind)[2:] if half == "hi" else parts(b, 8, b_kind)[:2]
            return c + sum(x * y for x, y in zip(parts(a, 16, a_kind), some, strict=True))

        yield Case(f"dp2a.{half}.{a_kind}32.{b_kind}32", result, ("b32", "b32", result), model)


def distance(bits: int, kinds: tuple[str, ...], adds: str, a: int, b: int, c: int) -> int:
    pairs = zip(parts(a, bits, kinds[1]), parts(b, bits, kinds[2]), strict=True)
    found = [abs(x - y) for x, y in pairs]
    return c + sum(found) if adds else together(found, bits)


def distances() -> Iterator[Case]:
    for count, kinds, adds in product((2, 4), product("us", repeat=3), ("", ".add")):
        name = f"vabsdiff{count}" + "".join(f".{kind}32" for kind in kinds) + adds
        yield Case(name, "b32", ("b32", "b32", "b32"), partial(distance, 32 // count, kinds, adds))


@pytest.mark.parametrize(
    "family", [halves, packs, dot_products, distances], ids=lambda family: family.__name__
)
def test_against_python(family: Callable[[], Iterator[Case]]) -> None:
    check(family(), operands, EVERY_WAY)


def nth_set_bit(mask: int, start: int, nth: int) -> int:
    """As the search is written down in the definition of PTX."""
    if nth == 0:
        return start if mask >> start & 1 else 0xFFFFFFFF
    position, left = start, abs(nth) - 1
    while 0 <= position < 32:
        if mask >> position & 1:
            if left == 0:
                return position
            left -= 1
        position += 1 if nth > 0 else -1
    return 0xFFFFFFFF


def test_the_nth_set_bit() -> None:
    generator = np.random.default_rng(0)
    masks = np.concatenate(
        [
            np.array([0, 1, 1 << 31, 0xFFFFFFFF, 0x80000001], np.uint32),
            generator.integers(0, 1 << 32, 60, np.uint32),
        ]
    )
    wanted = [*range(-34, 35), 1 << 31, (1 << 31) - 1]
    rows = list(product(masks.tolist(), (0, 1, 15, 30, 31), wanted))
    columns: list[Bits] = [
        np.array([row[place] & 0xFFFFFFFF for row in rows], np.uint32) for place in range(3)
    ]
    check([Case("fns.b32", "b32", ("b32", "b32", "s32"), nth_set_bit)], lambda _: columns, EVERY_WAY)
