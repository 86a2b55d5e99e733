"""Where one strategy overtakes another: of the time a step, measured and predicted, and of the bytes."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any

from nnkit.cost.model import Machine, predict
from nnkit.plugins import Registry
from nnkit.scaling.contender import Contender
from nnkit.scaling.rows import Row

WIDEST = 1_000_000
"""Where the search for a crossing of bytes ends."""


def crossings(
    rows: Sequence[Row], batch: int, machines: Mapping[int, Machine], registry: Registry
) -> list[dict[str, Any]]:
    """For every number of ranks and pair of strategies: up to which hidden width the first is the cheaper.

    Of the time a step, measured (interpolated between the widths that were run, both on logarithmic scales)
    and predicted within the same range, and of the bytes.
    """
    found = []
    for ranks, machine in machines.items():
        of = {
            comm: {each["hidden"]: each for each in rows if (each["comm"], each["ranks"]) == (comm, ranks)}
            for comm in dict.fromkeys(each["comm"] for each in rows if each["ranks"] == ranks)
        }
        # On two ranks, say, hybrid is data under another name.
        distinct: dict[Any, Contender] = {}
        for comm, by_width in of.items():
            each = Contender(registry.comm(comm), ranks)
            distinct.setdefault(each.step((max(by_width),), batch) or comm, each)
        for pair in combinations(distinct.values(), 2):
            first, second = (of[each.name] for each in pair)
            widths = sorted(first)
            names = {"ranks": ranks, "first": pair[0].name, "second": pair[1].name}
            gaps = [(width, math.log(first[width]["seconds"] / second[width]["seconds"])) for width in widths]
            found.append({**names, "of": "time", "source": "measured", **_crossing(gaps)})
            if None in (pair[0].grid, pair[1].grid):
                continue
            fine = _between(widths[0], widths[-1])
            gaps = [(width, math.log(_ratio(pair, batch, width, machine))) for width in fine]
            found.append({**names, "of": "time", "source": "predicted", **_crossing(gaps)})
            found.append({**names, "of": "bytes", "source": "exact", **_crossing_of_bytes(pair, batch)})
    return found


def _ratio(pair: Sequence[Contender], batch: int, width: int, machine: Machine) -> float:
    first, second = (
        predict(step, each.grid, machine).seconds
        for each in pair
        if (step := each.step((width,), batch)) and each.grid
    )
    return first / second


def _between(least: int, most: int) -> list[int]:
    """Up to 100 widths, evenly spaced on a logarithmic scale."""
    return sorted({round(least * (most / least) ** (number / 99)) for number in range(100)})


def _crossing(gaps: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """Where the logarithm of first over second goes through 0; the first time, if it does more than once."""
    for (left, before), (right, after) in pairwise(gaps):
        if (before < 0) != (after < 0):
            share = before / (before - after)
            return {"hidden": round(left * (right / left) ** share), "cheaper_below": before < 0}
    return {"hidden": None, "cheaper_below": gaps[0][1] < 0}


def _crossing_of_bytes(pair: Sequence[Contender], batch: int) -> dict[str, Any]:
    def gap(width: int) -> int:
        first, second = (step.bytes for each in pair if (step := each.step((width,), batch, 0)))
        return first - second

    def is_below(width: int) -> bool:
        return (gap(width) < 0) == (gap(1) < 0)

    if is_below(WIDEST):
        return {"hidden": None, "cheaper_below": gap(1) < 0}
    return {"hidden": _first_failure(is_below), "cheaper_below": gap(1) < 0}


def _first_failure(holds: Callable[[int], bool]) -> int:
    """The least width at which it does not hold any more, by bisection."""
    good, bad = 1, WIDEST
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if holds(middle) else (good, middle)
    return bad
