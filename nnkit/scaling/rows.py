"""A row for each strategy, number of ranks and width: measured, predicted, and what the ranks gain."""

import math
from collections.abc import Sequence
from typing import Any

from nnkit.cost.model import Machine, predict
from nnkit.cost.step import Grid, step_of
from nnkit.scaling.orders import Case, sizes_of

Row = dict[str, Any]


def grid_of(comm: str, ranks: int) -> Grid | None:
    """The grid of a strategy that nnkit brings: hybrid's as near to a square as can be; None for others."""
    if ranks == 1:
        return (1, 1)
    smaller = next(n for n in range(math.isqrt(ranks), 0, -1) if ranks % n == 0)
    return {"data": (ranks, 1), "model": (1, ranks), "hybrid": (ranks // smaller, smaller)}.get(comm)


def make_row(case: Case, ranks: int, measured: dict[str, Any], machine: Machine) -> Row:
    """One configuration, measured and predicted; efficiency comes when one rank's time is known."""
    grid = grid_of(case.comm, ranks)
    found: Row = {
        "comm": case.comm,
        "ranks": ranks,
        "grid": list(grid) if grid else None,
        "hidden": case.hidden[0],
        "oversubscribed": machine.crowding(ranks) > 1,
        "seconds": measured["seconds"],
        "compute_seconds": measured["seconds"] - measured["exposed_seconds"],
        "exposed_seconds": measured["exposed_seconds"],
        "hidden_seconds": measured["hidden_seconds"],
        "bytes": max(measured["bytes"]),
        "sums": measured["sums"],
        "predicted": None,
        "error": None,
    }
    if grid is not None:
        sizes = sizes_of(case.hidden)
        # A small sum that is looked at behind a long product was under way all the time, but hid no more
        # than it takes itself.
        beside = [each for each in step_of(sizes, case.batch, grid).meetings if not each.blocks]
        longest = sum(machine.sum_seconds(each.bytes, each.ranks) for each in beside)
        found["hidden_seconds"] = min(found["hidden_seconds"], longest)
        predicted = predict(sizes, case.batch, grid, machine)
        found["predicted"] = predicted.to_json()
        found["error"] = predicted.seconds / measured["seconds"] - 1
    return found


def add_efficiency(rows: Sequence[Row], cores: int) -> None:
    """How much of `ranks` times the speed of one rank is reached; and of the cores that there are."""
    alone = {each["hidden"]: each["seconds"] for each in rows if each["ranks"] == 1}
    for each in rows:
        speedup = alone[each["hidden"]] / each["seconds"]
        each["speedup"] = speedup
        each["efficiency"] = speedup / each["ranks"]
        each["core_efficiency"] = speedup / min(each["ranks"], cores)
