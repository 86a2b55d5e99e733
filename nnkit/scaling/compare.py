"""The comparison: every strategy on every number of ranks and width, measured and predicted."""

import os
from collections.abc import Callable
from typing import Any

from nnkit.cost.model import Machine
from nnkit.plugins import Registry
from nnkit.scaling.contender import Contender
from nnkit.scaling.crossings import crossings
from nnkit.scaling.measure import cores, lone_cases, machine_of, measure_least, message_sizes
from nnkit.scaling.orders import Case, Orders
from nnkit.scaling.rows import add_efficiency, make_row


def compare(
    strategies: list[str],
    ranks: list[int],
    widths: list[int],
    batch: int,
    steps: int,
    rounds: int,
    backend: str,
    device: str,
    tell: Callable[[str], object],
) -> dict[str, Any]:
    """Measure all of it; the document that `--json` prints. What is going on is told as it begins."""
    registry, shared = Registry.discover(), cores()
    rows: list[dict[str, Any]] = []
    machines: dict[int, Machine] = {}
    seen = None
    for number in sorted({1, *ranks}):
        names = ["none"] if number == 1 else strategies
        contenders = [Contender(registry.comm(name), number) for name in names]
        runs = [
            (each, Case(each.name, (width,), batch, each.named_grid))
            for each in contenders
            for width in widths
        ]
        grids = [each.grid for each in contenders if each.grid]
        # Ranks that take turns on a core tell nothing about computing that fewer have not told.
        shapes = [(width,) for width in widths]
        lone = lone_cases(shapes, batch, grids, 12) if number <= shared else ()
        paced = lone_cases(shapes, batch, grids, 6) if number > 1 else ()
        orders = Orders(
            cases=tuple(case for _, case in runs),
            lone=lone,
            paced=paced,
            sum_grids=tuple(dict.fromkeys([(number, 1), *grids])),
            sum_bytes=message_sizes((max(widths),), batch),
            steps=steps,
            backend=backend,
            device=device,
            output="",
        )
        tell(f"measuring {number} rank{'s' if number > 1 else ''}")
        seen = measure_least(number, orders, rounds)
        machine = machine_of(seen, orders, shared, machines)
        machines[number] = machine
        rows += [
            make_row(contender, case, measured, machine)
            for (contender, case), measured in zip(runs, seen["cases"], strict=True)
        ]
    add_efficiency(rows, shared)
    several = {number: machine for number, machine in machines.items() if number > 1}
    return {
        "batch": batch,
        "steps": steps,
        "rounds": rounds,
        "backend": backend,
        "device": seen["device"] if seen else device,
        "cores": shared,
        "blas_kernels": os.environ.get("OPENBLAS_CORETYPE"),
        "machines": {str(number): machine.to_json() for number, machine in machines.items()},
        "rows": [each for each in rows if each["ranks"] in {1, *ranks}],
        "crossings": crossings(rows, batch, several, registry),
    }
