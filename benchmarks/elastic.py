"""The cost of fault tolerance: a step with `--elastic` beside one without.

    ./tools/run python benchmarks/elastic.py [--rounds 3] [--keep-pin] [--json]

784-1000-10 at batch 800 on two ranks, one thread each, by `data` and by `model`; with `model` copies of the
neighbour's part are exchanged every step, every 10 and every 100 steps. Processes of their own, in turns; the
time of a step is the mean of a run, the median of the rounds counts. For information: there is no goal.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from typing import TypedDict

import shared

RUNS = {
    "data": ["--comm", "data"],
    "data, elastic": ["--comm", "data", "--elastic"],
    "model": ["--comm", "model"],
    "model, elastic, copies every step": ["--comm", "model", "--elastic"],
    "model, elastic, every 10 steps": ["--comm", "model", "--elastic", "--refresh", "10"],
    "model, elastic, every 100 steps": ["--comm", "model", "--elastic", "--refresh", "100"],
}
COMMON = ["--ranks", "2", "--hidden", "1000", "--batch", "800", "--lr", "0.5", "--epochs", "3"]


class Cost(TypedDict):
    """What is read of the cost that a run reports."""

    seconds: float
    steps: int
    copy_seconds: float
    copies: int


class Row(TypedDict):
    """One way to train: seconds of a step and of a copy, and over those of the way that loses no rank."""

    name: str
    step_seconds: float
    copy_seconds: float
    ratio: float


def run(options: list[str]) -> Cost:
    """The cost of one run, as its first rank has counted it."""
    command = [sys.executable, "-m", "nnkit", "train", *COMMON, *options, "--json", "--quiet"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    cost: Cost = json.loads(done.stdout)["cost"]
    return cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep-pin", action="store_true", help=f"leave {shared.PIN} as it is")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    shared.drop_pin(options.keep_pin)
    costs: dict[str, list[Cost]] = {name: [] for name in RUNS}
    for _ in range(options.rounds):
        for name, arguments in RUNS.items():
            costs[name].append(run(arguments))
    steps = {
        name: statistics.median(cost["seconds"] / cost["steps"] for cost in found)
        for name, found in costs.items()
    }
    report: list[Row] = []
    for name, found in costs.items():
        copy = statistics.median(cost["copy_seconds"] / max(cost["copies"], 1) for cost in found)
        ratio = steps[name] / steps[name.partition(",")[0]]
        report.append({"name": name, "step_seconds": steps[name], "copy_seconds": copy, "ratio": ratio})
    if options.json:
        print(json.dumps({"cores": os.cpu_count(), "rows": report}, indent=2))
        return
    for row in report:
        line = f"  {row['name']:<36} {1e3 * row['step_seconds']:6.2f} ms a step, {row['ratio']:.2f} times"
        copy = row["copy_seconds"]
        print(f"{line}, {1e3 * copy:.2f} ms a copy" if copy else line)


if __name__ == "__main__":
    main()
