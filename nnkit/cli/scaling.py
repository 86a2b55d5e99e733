"""`nnkit scaling`: time and bytes of a step over strategies, ranks and widths, measured and predicted."""

from pathlib import Path
from typing import Annotated

import typer

from nnkit.cli import options
from nnkit.cli.distribution import check_outside_mpirun
from nnkit.errors import UsageError


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
    from nnkit.scaling.compare import compare
    from nnkit.scaling.report import in_words
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
    document = compare(
        list(dict.fromkeys(strategies)), numbers, widths, batch, steps, rounds, backend, device, options.note
    )
    if plot is not None:
        from nnkit.scaling.plot import draw_scaling

        draw_scaling(plot, document)
    if json:
        options.print_json(document)
        return
    print(in_words(document))


def numbers_in(option: str, text: str, most: int) -> list[int]:
    """ "1,2,4" as [1, 2, 4], each once, in rising order. Raises UsageError."""
    try:
        found = sorted({int(word) for word in text.split(",")})
    except ValueError:
        found = []
    if not found or not all(1 <= number <= most for number in found):
        raise UsageError(f"{option} {text}: give numbers from 1 to {most} with commas between, such as 1,2,4")
    return found
