"""A row for each strategy, number of ranks and width: measured, predicted, and what the ranks gain."""

from collections.abc import Sequence
from typing import Any

from nnkit.cost.model import Machine, predict
from nnkit.scaling.contender import Contender
from nnkit.scaling.orders import Case

Row = dict[str, Any]


def make_row(contender: Contender, case: Case, measured: dict[str, Any], machine: Machine) -> Row:
    """One configuration, measured, and predicted if its backend says enough for that.

    Efficiency comes when one rank's time is known.
    """
    ranks, grid = contender.ranks, contender.grid
    step = contender.step(case.hidden, case.batch)
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
    if step is not None and grid is not None:
        # A small sum that is looked at behind a long product was under way all the time, but hid no more
        # than it takes itself.
        beside = [each for each in step.meetings if not each.blocks]
        longest = sum(machine.sum_seconds(each.bytes, each.ranks) for each in beside)
        found["hidden_seconds"] = min(found["hidden_seconds"], longest)
        predicted = predict(step, grid, machine)
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
