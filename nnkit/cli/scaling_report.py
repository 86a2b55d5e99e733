"""What `nnkit scaling` makes of its measurements: rows, predictions beside them, where strategies cross."""

import math
from collections.abc import Callable, Sequence
from itertools import combinations, pairwise
from typing import Any

from nnkit.cli.scaling_measure import sizes_of
from nnkit.cli.scaling_worker import Case
from nnkit.cost.model import Machine, predict
from nnkit.cost.step import Grid, step_of
from nnkit.cost.units import bytes_in_words, seconds_in_words

Row = dict[str, Any]
WIDEST = 1_000_000
"""Where the search for a crossing of bytes ends."""


def grid_of(comm: str, ranks: int) -> Grid | None:
    """The grid of a strategy that nnkit brings: hybrid's as near to a square as can be; None for others."""
    if ranks == 1:
        return (1, 1)
    smaller = next(n for n in range(math.isqrt(ranks), 0, -1) if ranks % n == 0)
    return {"data": (ranks, 1), "model": (1, ranks), "hybrid": (ranks // smaller, smaller)}.get(comm)


def row(case: Case, ranks: int, measured: dict[str, Any], machine: Machine) -> Row:
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


def in_words(document: dict[str, Any]) -> str:
    """The report for people."""
    lines = [
        f"784-n-10, batch {document['batch']}, backend {document['backend']} on {document['device']}, "
        f"{document['cores']} cores, one thread a rank",
        f"{'comm':8}{'ranks':>6} {'grid':>6}{'n':>7}{'a step':>11}{'compute':>11}{'exposed':>11}"
        f"{'hidden':>11}{'bytes':>10}{'efficiency':>11}{'predicted':>11}{'error':>7}",
    ]
    for each in document["rows"]:
        grid = "x".join(map(str, each["grid"])) if each["grid"] else "-"
        times = [each[f"{name}seconds"] for name in ("", "compute_", "exposed_", "hidden_")]
        predicted, error = "-", "-"
        if each["predicted"]:
            predicted, error = seconds_in_words(each["predicted"]["seconds"]), f"{each['error']:+.0%}"
        lines.append(
            f"{each['comm']:8}{each['ranks']:>6} {grid:>6}{each['hidden']:>7}"
            + "".join(f"{seconds_in_words(seconds):>11}" for seconds in times)
            + f"{bytes_in_words(each['bytes']):>10}{each['efficiency']:>11.0%}{predicted:>11}{error:>7}"
            + (" oversubscribed" if each["oversubscribed"] else "")
        )
    lines += [_crossing_in_words(each) for each in document["crossings"]]
    if any(each["oversubscribed"] for each in document["rows"]):
        lines.append(
            "oversubscribed: more ranks than cores take turns, so a rank's waiting is mostly another's "
            "computing, and no efficiency above cores / ranks is possible"
        )
    return "\n".join(lines)


def _crossing_in_words(each: dict[str, Any]) -> str:
    below, above = (
        (each["first"], each["second"]) if each["cheaper_below"] else (each["second"], each["first"])
    )
    what = {"time": "faster", "bytes": "fewer bytes"}[each["of"]]
    where = f"{each['ranks']} ranks, {each['source']}"
    if each["hidden"] is None:
        return f"{where}: {below}: {what} than {above} at every n" + (" run" if each["of"] == "time" else "")
    return f"{where}: {below}: {what} below n = {each['hidden']}, {above} above"
