"""The sizes at which a matrix product is checked besides the size that is asked for: edge cases.

A kernel cuts its matrices into tiles, vectors and unrolled steps. Typical mistakes are a guard that is off by
one, a remainder that is dropped, and the stride of the wrong matrix. They show at sizes next to a multiple of
the tile or below the first one, and perhaps nowhere else. So M, N and K go through all of LENGTHS.
"""

from nnkit.contracts import C_NAMES
from nnkit.errors import UsageError

Size = tuple[int, int, int]
"""M, N and K: C is (M, N), and each sum has K terms."""

LARGEST = 100_000_000
"""Elements of one matrix: several copies of all of them must fit into memory, one in float64."""

LENGTHS = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 33, 48, 63, 64, 65, 96, 127, 128, 129)
"""Around the powers of two that tiles and vectors are made of, odd multiples of them, and primes."""

EVEN = 32
"""The other two lengths while one goes through LENGTHS: for most kernels not an edge case."""

EMPTY: tuple[Size, ...] = ((0, 5, 7), (5, 0, 7), (5, 7, 0))


def check_options(m: int, n: int, k: int, dtype: str, least: int, **others: int) -> None:
    """Raise UsageError, which names the option, for a number below `least`, too large sizes or a dtype."""
    for option, value in {"m": m, "n": n, "k": k, **others}.items():
        if value < least:
            raise UsageError(f"--{option} {value}: give {least} or more")
    if max(m * n, m * k, n * k) > LARGEST:
        raise UsageError(
            f"--m {m} --n {n} --k {k}: a matrix has more than {LARGEST} elements: give smaller sizes"
        )
    if dtype not in C_NAMES:
        raise UsageError(f"--dtype {dtype}: give {' or '.join(C_NAMES)}")


def _edges() -> tuple[Size, ...]:
    count = len(LENGTHS)
    alone = [
        size
        for length in LENGTHS
        for size in ((length, EVEN, EVEN), (EVEN, length, EVEN), (EVEN, EVEN, length))
    ]
    # M, N and K differ, so that the stride of the wrong matrix shows.
    together = [(LENGTHS[i], LENGTHS[(i + 7) % count], LENGTHS[(i + 15) % count]) for i in range(count)]
    equal = [(length, length, length) for length in (1, 17, 33)]
    return tuple(sorted({*alone, *together, *equal, *EMPTY}, key=volume))


def volume(size: Size) -> tuple[int, Size]:
    """A key to sort sizes, simplest first: by the number of multiplications; empty sizes come last."""
    m, n, k = size
    return (m * n * k or 1 << 62), size


EDGES = _edges()
"""The edge sizes, the simplest first."""


def describe_sizes(failed: set[Size], tried: set[Size]) -> str:
    """In words, which of the sizes failed; by a rule, if one separates them from all others tried."""
    first = min(failed, key=volume)
    example = " x ".join(map(str, first))
    # An empty C cannot be wrong.
    full = {size for size in tried if size[0] and size[1]}
    if len(tried) == 1:
        return f"at {example}"
    if failed >= full:
        return f"at every size, the smallest {example}"
    if rule := _rule(failed & full, full):
        return f"wherever {rule}, as at {example}"
    return f"at {len(failed)} of {len(tried)} sizes, the smallest {example}"


def _rule(failed: set[Size], tried: set[Size]) -> str:
    """A condition on M, N and K that is true for the failed sizes and no others; "" if there is none."""
    axes = {"M": 0, "N": 1, "K": 2}
    units = (2, 4, 8, 16, 32, 64, 128)
    rules = {f"{name} is 0": {s for s in tried if not s[axis]} for name, axis in axes.items()}
    for unit in units:
        odd = {name: {s for s in tried if s[axis] % unit} for name, axis in axes.items()}
        rules |= {f"{name} is no multiple of {unit}": sizes for name, sizes in odd.items()}
        rules |= {f"{a} or {b} is no multiple of {unit}": odd[a] | odd[b] for a, b in ("MN", "MK", "NK")}
        rules[f"M, N or K is no multiple of {unit}"] = odd["M"] | odd["N"] | odd["K"]
        rules |= {
            f"{name} is a multiple of {unit}": {s for s in tried if s[axis] and not s[axis] % unit}
            for name, axis in axes.items()
        }
    for limit in (1, *units, 256):
        for name, axis in axes.items():
            rules[f"{name} is more than {limit}"] = {s for s in tried if s[axis] > limit}
            rules[f"{name} is less than {limit}"] = {s for s in tried if s[axis] < limit}
    rules |= {
        f"{a} is not {b}": {s for s in tried if s[axes[a]] != s[axes[b]]} for a, b in ("MN", "MK", "NK")
    }
    return next((words for words, sizes in rules.items() if sizes == failed and failed), "")
