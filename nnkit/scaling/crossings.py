"""Where one strategy overtakes another: of the time a step, measured and predicted, and of the bytes."""

import math
from collections.abc import Callable, Sequence
from itertools import combinations, pairwise
from typing import Any

from nnkit.cost.model import Machine, predict
from nnkit.cost.step import Grid, step_of
from nnkit.scaling.orders import sizes_of
from nnkit.scaling.rows import Row, grid_of

WIDEST = 1_000_000
"""Where the search for a crossing of bytes ends."""


def crossings(rows: Sequence[Row], batch: int, machines: dict[int, Machine]) -> list[dict[str, Any]]:
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
        distinct: dict[Any, str] = {}
        for comm in of:
            distinct.setdefault(grid_of(comm, ranks) or comm, comm)
        for first, second in combinations(distinct.values(), 2):
            grids = grid_of(first, ranks), grid_of(second, ranks)
            widths = sorted(of[first])
            pair = {"ranks": ranks, "first": first, "second": second}
            gaps = [
                (width, math.log(of[first][width]["seconds"] / of[second][width]["seconds"]))
                for width in widths
            ]
            found.append({**pair, "of": "time", "source": "measured", **_crossing(gaps)})
            if grids[0] is None or grids[1] is None:
                continue
            fine = _between(widths[0], widths[-1])
            gaps = [(width, math.log(_ratio(grids, batch, width, machine))) for width in fine]
            found.append({**pair, "of": "time", "source": "predicted", **_crossing(gaps)})
            found.append({**pair, "of": "bytes", "source": "exact", **_crossing_of_bytes(grids, batch)})
    return found


def _ratio(grids: Sequence[Grid | None], batch: int, width: int, machine: Machine) -> float:
    first, second = (predict(sizes_of((width,)), batch, grid, machine).seconds for grid in grids if grid)
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


def _crossing_of_bytes(grids: Sequence[Grid | None], batch: int) -> dict[str, Any]:
    def gap(width: int) -> int:
        first, second = (step_of(sizes_of((width,)), batch, grid, 0).bytes for grid in grids if grid)
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
