"""`nnkit scaling`: time and bytes of a step over strategies, ranks and widths, measured and predicted."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nnkit.cli import options
from nnkit.cli.distribution import check_outside_mpirun
from nnkit.errors import UsageError

if TYPE_CHECKING:
    from nnkit.cost.model import Machine


def scaling(
    comm: Annotated[str, typer.Option(help="The strategies to compare.")] = "data,model,hybrid",
    ranks: Annotated[str, typer.Option(help="Numbers of ranks; one rank is always run too.")] = "1,2,4,8",
    hidden: Annotated[
        str, typer.Option("-n", "--hidden", help="Widths of the hidden layer, each a network of its own.")
    ] = "100,1000,4000",
    batch: Annotated[int, typer.Option("-b", "--batch", help="Samples in a minibatch.")] = 800,
    steps: Annotated[int, typer.Option("--steps", help="Steps of each; the middle half counts.")] = 30,
    rounds: Annotated[int, typer.Option("--rounds", help="Measure so often; the least of each counts.")] = 1,
    backend: options.Backend = "numpy",
    device: options.Device = "auto",
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw it (.png).")] = None,
    json: options.Json = False,
) -> None:
    """Run strategies over ranks and widths: compute, communication exposed and hidden, bytes, crossings."""
    strategies = [name.strip() for name in comm.split(",")]
    numbers, widths = numbers_in("--ranks", ranks, 4096), numbers_in("--hidden", hidden, 100_000)
    for option, value in (("--batch", batch), ("--steps", steps), ("--rounds", rounds)):
        if value < 1:
            raise UsageError(f"{option} {value}: give 1 or more")

    from nnkit.plugins import Registry
    from nnkit.train.plot import check_plot

    registry = Registry.discover()
    for name in strategies:
        if name == "none":
            raise UsageError(
                "--comm none: one rank is always run: name ways to distribute, such as data,model"
            )
        registry.comm(name)
    registry.gemm(backend)
    if batch < max(numbers):
        raise UsageError(f"--batch {batch}: {max(numbers)} ranks share it: give at least as many samples")
    check_outside_mpirun("scaling")
    if plot is not None:
        check_plot(plot)
    document = run(list(dict.fromkeys(strategies)), numbers, widths, batch, steps, rounds, backend, device)
    if plot is not None:
        from nnkit.cli.scaling_plot import draw_scaling

        draw_scaling(plot, document)
    if json:
        options.print_json(document)
        return
    from nnkit.cli.scaling_report import in_words

    print(in_words(document))


def run(
    strategies: list[str],
    ranks: list[int],
    widths: list[int],
    batch: int,
    steps: int,
    rounds: int,
    backend: str,
    device: str,
) -> dict[str, Any]:
    """Measure all of it; the document that `--json` prints."""
    from nnkit.cli import scaling_measure, scaling_report
    from nnkit.cli.scaling_worker import Case, Orders

    cores = scaling_measure.cores()
    rows: list[dict[str, Any]] = []
    machines: dict[int, Machine] = {}
    seen = None
    for number in sorted({1, *ranks}):
        names = ["none"] if number == 1 else strategies
        cases = tuple(
            Case(name, (width,), batch, scaling_report.grid_of(name, number) if name == "hybrid" else None)
            for name in names
            for width in widths
        )
        grids = [grid for name in names if (grid := scaling_report.grid_of(name, number))]
        # Ranks that take turns on a core tell nothing about computing that fewer have not told.
        shapes = [(width,) for width in widths]
        lone = scaling_measure.lone_cases(shapes, batch, grids, 12) if number <= cores else ()
        paced = scaling_measure.lone_cases(shapes, batch, grids, 6) if number > 1 else ()
        orders = Orders(
            cases=cases,
            lone=lone,
            paced=paced,
            sum_grids=tuple(dict.fromkeys([(number, 1), *grids])),
            sum_bytes=scaling_measure.message_sizes((max(widths),), batch),
            steps=steps,
            backend=backend,
            device=device,
            output="",
        )
        options.note(f"measuring {number} rank{'s' if number > 1 else ''}")
        seen = scaling_measure.measure_least(number, orders, rounds)
        machine = scaling_measure.machine_of(seen, orders, cores, machines)
        machines[number] = machine
        rows += [
            scaling_report.row(case, number, measured, machine)
            for case, measured in zip(cases, seen["cases"], strict=True)
        ]
    scaling_report.add_efficiency(rows, cores)
    several = {number: machine for number, machine in machines.items() if number > 1}
    return {
        "batch": batch,
        "steps": steps,
        "rounds": rounds,
        "backend": backend,
        "device": seen["device"] if seen else device,
        "cores": cores,
        "blas_kernels": os.environ.get("OPENBLAS_CORETYPE"),
        "machines": {str(number): machine.to_json() for number, machine in machines.items()},
        "rows": [each for each in rows if each["ranks"] in {1, *ranks}],
        "crossings": scaling_report.crossings(rows, batch, several),
    }


def numbers_in(option: str, text: str, most: int) -> list[int]:
    """ "1,2,4" as [1, 2, 4], each once, in rising order. Raises UsageError."""
    try:
        found = sorted({int(word) for word in text.split(",")})
    except ValueError:
        found = []
    if not found or not all(1 <= number <= most for number in found):
        raise UsageError(f"{option} {text}: give numbers from 1 to {most} with commas between, such as 1,2,4")
    return found
