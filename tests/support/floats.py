"""Floats as bits of a format: those at which instructions go wrong, and exact results of operations."""

from collections.abc import Callable
from functools import cache

from tests.support.opcodes import (
    Exact,
    Finite,
    Format,
    exact_product,
    exact_quotient,
    exact_root,
    exact_sum,
)


@cache
def edges(format_: Format) -> list[int]:
    """Both signs of the numbers at which floating-point instructions go wrong, and NaNs, as bits."""
    one = format_.rounded(Finite(1, 0), "rn")
    unit = 1 << (format_.precision - 1)
    infinity = format_.infinity
    powers = [format_.rounded(Finite(1, e), "rn") for e in (-1, 1, -format_.precision, 1 - format_.precision)]
    sizes = [0, 1, 2, 3, unit // 2, unit - 1, unit, unit + 1, 2 * unit, 2 * unit - 1]
    sizes += [one - 1, one, one + 1, one + unit // 2, *powers, powers[2] + 1, powers[2] - 1, powers[3] + 1]
    sizes += [infinity - 1, infinity - 2, infinity - unit, infinity - unit - 1, infinity // 2, infinity]
    sizes += [infinity + 1, infinity + unit // 2, infinity + unit - 1]
    return sorted({size | sign for size in sizes for sign in (0, format_.sign)})


OPERATIONS: dict[str, Callable[..., Exact | str]] = {
    "add": exact_sum,
    "sub": lambda a, b: exact_sum(a, Finite(-b.m, b.e) if isinstance(b, Finite) else -b),
    "mul": exact_product,
    "fma": lambda a, b, c: exact_sum(exact_product(a, b), c),
    "div": exact_quotient,
    "rcp": lambda a: exact_quotient(Finite(1, 0), a),
    "sqrt": exact_root,
}


@cache
def exact(name: str, format_: Format, *operands: int) -> Exact | str:
    return OPERATIONS[name](*map(format_.value, operands))
