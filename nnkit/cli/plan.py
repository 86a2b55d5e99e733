"""`nnkit plan`: which strategy, which grid, how long a step takes, before there is a machine to try it on."""

from typing import Annotated

import typer

from nnkit.cli import options
from nnkit.cli.distribution import check_outside_mpirun
from nnkit.cost.units import parse_bandwidth, parse_latency, parse_rate
from nnkit.errors import UsageError

MOST_RANKS = 1_000_000


def plan(
    ranks: Annotated[int, typer.Option(metavar="N", help="How many ranks there will be.")],
    hidden: Annotated[
        str, typer.Option("-n", "--hidden", help="Neurons of each hidden layer: 100, or 8192,8192.")
    ] = "100",
    batch: Annotated[int, typer.Option("-b", "--batch", help="Samples in a minibatch.")] = 800,
    bandwidth: Annotated[
        str | None, typer.Option(help="Of the network, for a rank: 25GB/s or 200Gb/s; else measured here.")
    ] = None,
    latency: Annotated[
        str | None, typer.Option(help="Of one message: 2us, 500ns; else measured here.")
    ] = None,
    flops: Annotated[
        str | None, typer.Option(help="What a rank's matrix products reach: 10TFLOP/s; else measured here.")
    ] = None,
    comm: Annotated[str, typer.Option(help="The strategies to choose from.")] = "data,model,hybrid",
    backend: options.Backend = "numpy",
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Predict a step under every strategy, and say which is the fastest and why."""
    if not 1 <= ranks <= MOST_RANKS:
        raise UsageError(f"--ranks {ranks}: give 1 to {MOST_RANKS}")
    names = list(dict.fromkeys(name.strip() for name in comm.split(",")))
    link = (
        None if bandwidth is None else parse_bandwidth(bandwidth),
        None if latency is None else parse_latency(latency),
    )
    rate = None if flops is None else parse_rate(flops)

    from nnkit.contracts import Task
    from nnkit.plan.choice import choose
    from nnkit.plan.machine import Described
    from nnkit.plan.report import in_words
    from nnkit.scaling.orders import sizes_of
    from nnkit.train.config import TrainConfig, parse_hidden

    check_outside_mpirun("plan")
    task = Task(sizes_of(TrainConfig(hidden=parse_hidden(hidden), batch=batch).hidden), batch)
    document = choose(task, ranks, names, Described(*link, rate), backend, device, options.note)
    if json:
        options.print_json(document)
        return
    print(in_words(document))
