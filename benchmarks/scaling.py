"""Model against data parallel over n, on ranks of this machine: bytes, exposed time, speed, predictions.

    ./tools/run python benchmarks/scaling.py [--rounds 5] [--ranks 2] [--hidden 50,...,4000] [--json]

Networks 784-n-10 at batch 800, one thread a rank. A round runs, one after the other: one rank with as many
threads as there are cores, one rank with one thread, then every strategy on every number of ranks, and fits
the cost model anew. It prints each row's median over the rounds, and its fastest round.

Goals: the bytes are those of the theory exactly; of a step at n = 1000 on two ranks less than 10 % is exposed
communication with data and less than 3 % with model parallel; the better of them is at least 0.9 times as
fast as one rank with two threads; predictions are within 25 % where ranks have a core each.

An environment variable that pins OpenBLAS to another processor's kernels is dropped; --keep-pin leaves it.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, TypedDict

from shared import PIN, Goal, drop_pin, goal

BATCH = 800
WIDTHS = "50,100,200,400,1000,2000,4000"
GOAL_WIDTH = 1000
EXPOSED_GOALS = {"data": 0.10, "model": 0.03}
SPEED_GOAL, ERROR_GOAL = 0.9, 0.25

Document = dict[str, Any]
"""What `nnkit scaling --json` prints."""

Round = tuple[dict[int, float], Document]
"""Seconds by width of one rank with all cores, and what `nnkit scaling` printed."""


class Row(TypedDict):
    """One case over all rounds."""

    comm: str
    ranks: int
    hidden: int
    oversubscribed: bool
    seconds: float
    seconds_range: list[float]
    exposed: float
    bytes: int
    bytes_of_theory: int
    efficiency: float
    against_threads: float
    error: float


class Reached(Goal):
    """A goal, and what was reached."""

    what: str
    reached: float


class Summary(TypedDict):
    """The rows over the rounds, in one of two ways, and the goals."""

    rows: list[Row]
    goals: list[Reached]


class Report(TypedDict):
    """What `--json` prints."""

    rounds: int
    cores: int
    median: Summary
    least: Summary
    crossings: list[Any]


def theory(comm: str, ranks: int, n: int) -> int:
    """Bytes that a rank sums in a step, by a formula that is independent of the cost model."""
    if ranks == 1:
        return 0
    return {"data": 4 * (784 * n + n + 10 * n + 10), "model": 4 * BATCH * 10}[comm]


def one_rank_all_cores(widths: Sequence[int], steps: int, threads: int) -> dict[int, float]:
    """Seconds a step of one rank that computes with that many threads."""
    from nnkit.scaling.measure import SUM_BYTES, measure
    from nnkit.scaling.orders import Case, Orders

    cases = tuple(Case("none", (width,), BATCH) for width in widths)
    orders = Orders(cases, (), (), (), SUM_BYTES, steps, "numpy", "cpu", "")
    os.environ["OPENBLAS_NUM_THREADS"] = str(threads)
    try:
        found = measure(1, orders)
    finally:
        del os.environ["OPENBLAS_NUM_THREADS"]
    return {width: each["seconds"] for width, each in zip(widths, found["cases"], strict=True)}


def summary(rounds: Sequence[Round], least: bool) -> Summary:
    """Every row over the rounds: medians, or (`least`) the figures of its fastest round.

    Other programs on the machine can only slow it down: so the fastest round shows what this program can do,
    the median what it did.
    """
    rows: list[Row] = []
    for number, first in enumerate(rounds[0][1]["rows"]):
        same = [document["rows"][number] for _, document in rounds]
        n, comm, ranks = first["hidden"], first["comm"], first["ranks"]
        threads = [seconds[n] for seconds, _ in rounds]
        alone = [one["seconds"] for _, document in rounds for one in document["rows"] if _is_alone(one, n)]
        chosen = [min(same, key=lambda row: float(row["seconds"]))] if least else same
        pick = min if least else median
        seconds = pick(row["seconds"] for row in same)
        rows.append(
            {
                "comm": comm,
                "ranks": ranks,
                "hidden": n,
                "oversubscribed": first["oversubscribed"],
                "seconds": seconds,
                "seconds_range": [each(row["seconds"] for row in same) for each in (min, max)],
                "exposed": median(row["exposed_seconds"] / row["seconds"] for row in chosen),
                "bytes": first["bytes"],
                "bytes_of_theory": theory(comm, ranks, n),
                "efficiency": pick(alone) / seconds / ranks,
                "against_threads": pick(threads) / seconds,
                "error": median(row["error"] for row in chosen),
            }
        )
    return {"rows": rows, "goals": goals(rows)}


def _is_alone(row: Document, n: int) -> bool:
    return row["ranks"] == 1 and bool(row["hidden"] == n)


def goals(rows: Sequence[Row]) -> list[Reached]:
    """The goals, and what was reached."""
    found: list[Reached] = [
        {
            "what": "rows whose bytes are not those of the theory",
            "at_most": 0,
            "reached": sum(row["bytes"] != row["bytes_of_theory"] for row in rows),
        }
    ]
    at = [row for row in rows if row["ranks"] == 2 and row["hidden"] == GOAL_WIDTH]
    for row in at:
        what = f"{row['comm']}, 2 ranks, n = {GOAL_WIDTH}: exposed part of a step"
        found.append({"what": what, "under": EXPOSED_GOALS[row["comm"]], "reached": row["exposed"]})
    if at:
        best = max(at, key=lambda row: float(row["against_threads"]))
        what = f"{best['comm']}, 2 ranks, n = {GOAL_WIDTH}: speed over one rank with two threads"
        found.append({"what": what, "at_least": SPEED_GOAL, "reached": best["against_threads"]})
    for crowded in (False, True):
        errors = [abs(row["error"]) for row in rows if row["oversubscribed"] == crowded]
        if errors:
            what = f"largest error of a prediction, {'more ranks than cores' if crowded else 'a core each'}"
            found.append({"what": what, "reached": max(errors)})
            if not crowded:
                found[-1]["at_most"] = ERROR_GOAL
    return found


def quietest(rounds: Sequence[Round]) -> Round:
    """The round that took the least time."""
    return min(rounds, key=lambda each: sum(row["seconds"] for row in each[1]["rows"]))


def show(report: Report) -> None:
    print(f"784-n-10, batch {BATCH}, {report['rounds']} rounds, {report['cores']} cores, one thread a rank")
    for name, summed in (("median", report["median"]), ("least", report["least"])):
        print(f"\n{name} of the rounds")
        table(summed["rows"])
        for each in summed["goals"]:
            reached = each["reached"]
            print(f"{each['what']}: {goal(each, reached, '{:.3g}') or format(reached, '.3g')}")


def table(rows: Sequence[Row]) -> None:
    print(f"{'comm':6}{'ranks':>6}{'n':>6}{'ms a step':>11}{'range':>16}{'exposed':>9}{'bytes':>12}", end="")
    print(f"{'theory':>12}{'efficiency':>11}{'to threads':>11}{'error':>7}")
    for row in rows:
        low, high = (1e3 * seconds for seconds in row["seconds_range"])
        print(
            f"{row['comm']:6}{row['ranks']:>6}{row['hidden']:>6}{1e3 * row['seconds']:>11.2f}"
            f"{f'{low:.2f} - {high:.2f}':>16}{row['exposed']:>9.1%}{row['bytes']:>12,}"
            f"{row['bytes_of_theory']:>12,}{row['efficiency']:>11.2f}{row['against_threads']:>11.2f}"
            f"{row['error']:>+7.0%}{' oversubscribed' if row['oversubscribed'] else ''}"
        )


def numbers(text: str) -> list[int]:
    """ "1,2,4" as [1, 2, 4], in rising order."""
    return sorted({int(word) for word in text.split(",")})


def _note(line: str) -> None:
    print(line, file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ranks", type=numbers, default="2", help="numbers of ranks, with commas between")
    parser.add_argument("--hidden", type=numbers, default=WIDTHS, help="widths, with commas between")
    parser.add_argument("--steps", type=int, default=30, help="steps of each in a round")
    parser.add_argument("--plot", type=Path, help="draw the quietest round")
    parser.add_argument("--keep-pin", action="store_true", help=f"leave {PIN} as it is")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    drop_pin(options.keep_pin)

    from nnkit.scaling.compare import compare
    from nnkit.scaling.measure import cores
    from nnkit.scaling.plot import draw_scaling

    widths, ranks, shared = options.hidden, [1, *options.ranks], cores()
    rounds = []
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
        threads = one_rank_all_cores(widths, options.steps, shared)
        document = compare(["data", "model"], ranks, widths, BATCH, options.steps, 1, "numpy", "cpu", _note)
        rounds.append((threads, document))
    if options.plot is not None:
        draw_scaling(options.plot, quietest(rounds)[1])
    report: Report = {
        "rounds": options.rounds,
        "cores": shared,
        "median": summary(rounds, least=False),
        "least": summary(rounds, least=True),
        "crossings": [document["crossings"] for _, document in rounds],
    }
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        show(report)


if __name__ == "__main__":
    main()
