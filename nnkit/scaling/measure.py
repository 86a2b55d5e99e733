"""Starts the ranks that measure, and makes a `Machine` of what they found."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import ceil, log2
from pathlib import Path
from statistics import median
from typing import Any

from nnkit.comm.launch import launch
from nnkit.comm.world import THREAD_VARIABLES, share_of_this_machine
from nnkit.contracts import Grid
from nnkit.cost.fit import fit_line, fit_waiting, fit_work
from nnkit.cost.model import NOTHING, Line, Machine
from nnkit.cost.step import ITEM, Work, alone
from nnkit.errors import Ended
from nnkit.scaling.orders import Case, Orders, sizes_of

MODULE = "nnkit.scaling.worker"
SUM_BYTES = (4_000, 32_000, 256_000, 1_000_000, 3_200_000)
"""What sums are timed with: from a few logits to the gradient of 784-1000-10."""


Found = dict[str, Any]
"""What ranks have measured, as `worker` writes it down."""


def measure_least(ranks: int, orders: Orders, rounds: int) -> Found:
    """Of several rounds the least of everything: what else runs on the machine only adds."""
    found = [measure(ranks, orders) for _ in range(rounds)]
    least: Found = {
        "device": found[0]["device"],
        "overlap": float(median(each["overlap"] for each in found)),
        "cases": [min(same, key=_seconds) for same in zip(*(each["cases"] for each in found), strict=True)],
        "sums": {
            group: [
                min(same, key=_last) for same in zip(*(each["sums"][group] for each in found), strict=True)
            ]
            for group in found[0]["sums"]
        },
    }
    for name in ("lone", "paced"):
        least[name] = [min(same) for same in zip(*(each[name] for each in found), strict=True)]
    return least


def _seconds(case: Found) -> float:
    return float(case["seconds"])


def _last(pair: Sequence[float]) -> float:
    """The seconds of a sum: (bytes, seconds)."""
    return pair[-1]


def measure(ranks: int, orders: Orders) -> Found:
    """What that many ranks found, each with one thread. Raises Ended if they failed; they have said why."""
    with tempfile.TemporaryDirectory() as folder, one_thread_each():
        output = Path(folder, "found.json")
        text = replace(orders, output=str(output)).to_text()
        if ranks == 1:
            command = [sys.executable, "-m", MODULE, text]
            # In a session of its own, as ranks are: Ctrl-C of the terminal comes here alone.
            status = subprocess.run(command, check=False, start_new_session=True).returncode
        else:
            status = launch(ranks, [text], program=(sys.executable, "-m", MODULE))
        if status or not output.exists():
            raise Ended(status or 1)
        found: Found = json.loads(output.read_text("utf-8"))
        return found


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Each rank computes with one thread, whatever their number, so that like is compared with like."""
    added = [name for name in THREAD_VARIABLES if not os.environ.get(name)]
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(dict.fromkeys(added, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def cores() -> int:
    """The cores that ranks started here share."""
    return share_of_this_machine(1, None, os.environ).cores


def message_sizes(widest: Sequence[int], batch: int) -> tuple[int, ...]:
    """The sizes that sums are timed with: up to the gradient of the widest network."""
    return tuple(sorted({*SUM_BYTES, ITEM * alone(sizes_of(widest), batch).parameters}))


def lone_cases(
    hidden: Sequence[tuple[int, ...]], batch: int, grids: Sequence[Grid], most: int
) -> tuple[Case, ...]:
    """Networks for one rank alone, shaped as the parts that ranks hold in these grids: small and large GEMMs.

    At most `most`, the smallest and the largest among them.
    """
    shapes = {
        (max(1, batch // over_batch), tuple(max(1, width // over_network) for width in widths))
        for widths in hidden
        for over_batch, over_network in grids
    }
    # A line through one point is none.
    shapes |= {(each, tuple(max(1, width // 2) for width in widths)) for each, widths in tuple(shapes)}
    ordered = sorted(shapes, key=lambda shape: alone(sizes_of(shape[1]), shape[0]).work.flops)
    count = min(most, len(ordered))
    chosen = {round(number * (len(ordered) - 1) / max(1, count - 1)) for number in range(count)}
    return tuple(Case("none", ordered[each][1], ordered[each][0]) for each in sorted(chosen))


def machine_of(found: Found, orders: Orders, shared: int, known: Mapping[int, Machine]) -> Machine:
    """The model fitted to what some ranks measured; `shared` is the number of cores.

    Where they did not compute alone, what the most ranks of those `known` have told about computing counts.
    """
    sums = {int(ranks): fit_line(measured) for ranks, measured in found["sums"].items()}
    gamma = (
        fit_work([(_work(case), seconds) for case, seconds in zip(orders.lone, found["lone"], strict=True)])
        if orders.lone
        else known[max(known)].gamma
    )
    machine = Machine(
        gamma=gamma,
        message=message_of(min(sums), sums[min(sums)]) if sums else NOTHING,
        sums=sums,
        overlap=found["overlap"],
        cores=shared,
    )
    if not orders.paced:
        return machine
    ranks = max(sums)
    computing = [machine.compute_seconds(_work(case), ranks) for case in orders.paced]
    # What a meeting takes beyond the computing; the sum of one number itself is in the model already.
    alpha, beta = fit_waiting(computing, found["paced"], machine.sum_seconds(4, ranks))
    return replace(machine, waiting=Line(alpha, beta))


def _work(case: Case) -> Work:
    return alone(sizes_of(case.hidden), case.batch).work


def message_of(ranks: int, whole: Line) -> Line:
    """One message, from sums over that many ranks: two ranks exchange one each, more meet in two rounds."""
    if ranks == 2:
        return whole
    return Line(whole.alpha / (2 * ceil(log2(ranks))), whole.beta * ranks / (2 * (ranks - 1)))
