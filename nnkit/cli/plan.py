"""`nnkit plan`: which strategy, which grid, how long a step takes, before there is a machine to try it on."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nnkit.cli import options
from nnkit.cli.distribution import check_outside_mpirun
from nnkit.cost.units import (
    bytes_in_words,
    parse_bandwidth,
    parse_latency,
    parse_rate,
    seconds_in_words,
)
from nnkit.errors import UsageError

if TYPE_CHECKING:
    from nnkit.cost.model import Machine, Prediction

STRATEGIES = ("data", "model", "hybrid")
MOST_RANKS = 1_000_000
MOST_MEASURED = 8
"""How many ranks are started here; the formulas go on from there."""


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
    comm: Annotated[str, typer.Option(help="The strategies to choose from.")] = ",".join(STRATEGIES),
    backend: options.Backend = "numpy",
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Predict a step under every strategy, and say which is the fastest and why."""
    if not 1 <= ranks <= MOST_RANKS:
        raise UsageError(f"--ranks {ranks}: give 1 to {MOST_RANKS}")
    names = list(dict.fromkeys(name.strip() for name in comm.split(",")))
    for name in names:
        if name not in STRATEGIES:
            raise UsageError(f"--comm {name}: a plan knows {', '.join(STRATEGIES)}: give some of these")
    link = (
        None if bandwidth is None else parse_bandwidth(bandwidth),
        None if latency is None else parse_latency(latency),
    )
    rate = None if flops is None else parse_rate(flops)

    from nnkit.cli.scaling_measure import sizes_of
    from nnkit.train.config import TrainConfig, parse_hidden

    check_outside_mpirun("plan")
    sizes = sizes_of(TrainConfig(hidden=parse_hidden(hidden), batch=batch).hidden)
    if ranks > 1 and not any(_fitting(sizes, batch, ranks, name) for name in names):
        raise UsageError(
            f"--ranks {ranks} with --comm {comm}: batch {batch} and layers {'-'.join(map(str, sizes))} have "
            "too few parts for all: give fewer ranks, a larger --batch, a wider --hidden or another --comm"
        )
    machine = _machine(sizes, batch, ranks, link, rate, backend, device)
    try:
        alone = _predict(sizes, batch, (1, 1), machine)
        offers = _offers(sizes, batch, ranks, names, machine)
    except OverflowError:
        raise UsageError(f"--batch {batch}, --hidden {hidden}: too large to compute with") from None
    if not all(math.isfinite(each.seconds) for each in (alone, *offers.values())):
        raise UsageError("a step takes longer than can be computed with: give another link or --flops")
    chosen = min(offers, key=lambda name: (offers[name].seconds, offers[name].bytes))
    document = {
        "network": list(sizes),
        "batch": batch,
        "ranks": ranks,
        "machine": machine.to_json(),
        "assumed": _assumed(link, rate),
        "oversubscribed": machine.crowding(ranks) > 1,
        "one_rank_seconds": alone.seconds,
        "strategies": {name: offer.to_json() for name, offer in offers.items()},
        "impossible": [name for name in names if name not in offers] if ranks > 1 else [],
        "choice": {
            "comm": chosen,
            "grid": list(offers[chosen].grid),
            "seconds": offers[chosen].seconds,
            "speedup": alone.seconds / offers[chosen].seconds,
            "why": why(chosen, offers, alone),
        },
    }
    if json:
        options.print_json(document)
        return
    print(in_words(document))


def _offers(
    sizes: tuple[int, ...], batch: int, ranks: int, names: list[str], machine: "Machine"
) -> "dict[str, Prediction]":
    """The best grid of every strategy that can use so many ranks; hybrid splits both."""
    if ranks == 1:
        return {"none": _predict(sizes, batch, (1, 1), machine)}
    offers = {}
    for name in names:
        found = [_predict(sizes, batch, grid, machine) for grid in _fitting(sizes, batch, ranks, name)]
        if found:
            offers[name] = min(found, key=lambda each: (each.seconds, each.bytes))
    return offers


def _fitting(sizes: tuple[int, ...], batch: int, ranks: int, name: str) -> list[tuple[int, int]]:
    """The grids of that strategy's kind that give every rank work."""
    from nnkit.cost.model import grids

    possible = grids(sizes, batch, ranks)
    if name == "data":
        return [grid for grid in possible if grid[1] == 1]
    if name == "model":
        return [grid for grid in possible if grid[0] == 1]
    return [grid for grid in possible if min(grid) > 1]


def _predict(sizes: tuple[int, ...], batch: int, grid: tuple[int, int], machine: "Machine") -> "Prediction":
    from nnkit.cost.model import predict

    return predict(sizes, batch, grid, machine)


def _machine(
    sizes: tuple[int, ...],
    batch: int,
    ranks: int,
    link: tuple[float | None, float | None],
    rate: float | None,
    backend: str,
    device: str,
) -> "Machine":
    """The machine described; what was not said of it is measured here.

    With nothing said of the network all ranks are on this machine, and may have to share its cores.
    """
    from nnkit.cost.model import Line, Machine
    from nnkit.cost.step import Work

    bandwidth, latency = link
    if ranks == 1 or (bandwidth is None and latency is None):
        machine = _measured(sizes[1:-1], batch, ranks, backend, device)
    elif bandwidth is not None and latency is not None:
        message = Line(latency, 1 / bandwidth)
        if rate is not None:
            return Machine(Work(flops=1 / rate), message)
        gamma = _measured(sizes[1:-1], batch, 1, backend, device).gamma
        return Machine(gamma, message)
    else:
        # Of the network one thing is known; the other is that between two ranks here.
        two = _measured(sizes[1:-1], batch, 2, backend, device)
        message = Line(
            two.message.alpha if latency is None else latency,
            two.message.beta if bandwidth is None else 1 / bandwidth,
        )
        machine = replace(two, message=message, sums={}, cores=None)
    return machine if rate is None else replace(machine, gamma=Work(flops=1 / rate))


def _measured(hidden: tuple[int, ...], batch: int, ranks: int, backend: str, device: str) -> "Machine":
    """This machine, with so many ranks or as many as are soon measured."""
    from nnkit.cli import scaling_measure
    from nnkit.cli.scaling_worker import Orders
    from nnkit.cost.model import grids
    from nnkit.plugins import Registry

    Registry.discover().gemm(backend)
    cores = scaling_measure.cores()
    # Wide networks take long, and a step is linear in what is large: a narrower one tells as much.
    narrow = [tuple(min(width, limit) for width in hidden) for limit in (64, 512, 1024)]
    samples = min(batch, 800)
    machines: dict[int, Machine] = {}
    # Computing is measured while nobody takes turns, meetings with all ranks.
    for number in sorted({min(ranks, cores, MOST_MEASURED), min(ranks, MOST_MEASURED)}):
        cuts = grids(scaling_measure.sizes_of(narrow[-1]), samples, number) or [(1, 1)]
        orders = Orders(
            cases=(),
            lone=scaling_measure.lone_cases(narrow, samples, [(1, 1), *cuts], 10) if number <= cores else (),
            paced=scaling_measure.lone_cases(narrow, samples, cuts, 5) if number > 1 else (),
            sum_grids=((number, 1), *(cut for cut in cuts if min(cut) > 1)),
            sum_bytes=scaling_measure.SUM_BYTES,
            steps=10,
            backend=backend,
            device=device,
            output="",
        )
        options.note(f"measuring this machine with {number} rank{'s' if number > 1 else ''}")
        found = scaling_measure.measure(number, orders)
        machines[number] = scaling_measure.machine_of(found, orders, cores, machines)
    return machines[max(machines)]


def _assumed(link: tuple[float | None, float | None], rate: float | None) -> dict[str, str]:
    """Where each coefficient comes from."""
    sources = {
        name: "measured here" if value is None else "given"
        for name, value in zip(("bandwidth", "latency"), link, strict=True)
    }
    described = None not in link
    return {
        **sources,
        "compute": "measured here" if rate is None else "given; all that is not a matrix product is left out",
        "overlap": "a network that works while ranks compute" if described else "measured here",
    }


def _why_not(name: str, document: dict[str, Any]) -> str:
    ranks = document["ranks"]
    if name == "data":
        return f"a batch of {document['batch']} has no part for each of {ranks} ranks"
    if name == "model":
        return (
            f"layers {'-'.join(map(str, document['network'][1:-1]))} have no part for each of {ranks} ranks"
        )
    return f"no grid of {ranks} ranks cuts both batch and network and gives each of them work"


def why(chosen: str, offers: "dict[str, Prediction]", alone: "Prediction") -> str:
    """One sentence: what decides."""
    best = offers[chosen]
    others = {name: offer for name, offer in offers.items() if name != chosen}
    if best.seconds > alone.seconds:
        warning = f"; one rank alone would be faster ({seconds_in_words(alone.seconds)})"
    else:
        warning = ""
    if chosen == "none":
        return "there is one rank, so nothing is split"
    if not others:
        return f"{chosen}, as no other of those asked for can use so many ranks{warning}"
    name = min(others, key=lambda other: others[other].seconds)
    second = others[name]
    exposed = second.exposed_seconds - best.exposed_seconds
    computed = second.compute_seconds - best.compute_seconds
    if exposed >= computed:
        reason = (
            f"it waits {seconds_in_words(best.exposed_seconds)} a step "
            f"for sums of {bytes_in_words(best.bytes)}, "
            f"{name} {seconds_in_words(second.exposed_seconds)} for {bytes_in_words(second.bytes)}"
        )
    else:
        reason = (
            f"a rank computes {seconds_in_words(best.compute_seconds)} a step, with {name} "
            f"{seconds_in_words(second.compute_seconds)}: its parts of the work are the smaller ones"
        )
    return f"{chosen}, because {reason}{warning}"


def in_words(document: dict[str, Any]) -> str:
    """The plan for people."""
    machine, choice = document["machine"], document["choice"]
    network = "-".join(map(str, document["network"]))
    beta = machine["beta_seconds_per_byte"]
    link = ""
    if beta:
        link = (
            f"bandwidth {bytes_in_words(1 / beta)}/s ({document['assumed']['bandwidth']}), "
            f"latency {seconds_in_words(machine['alpha_seconds'])} ({document['assumed']['latency']}), "
        )
    lines = [
        f"{network}, batch {document['batch']}, ranks {document['ranks']}; {link}"
        f"compute {document['assumed']['compute']}",
        f"{'comm':8}{'grid':>12}{'compute':>11}{'exposed':>11}{'hidden':>11}{'bytes':>10}{'a step':>11}"
        f"{'parameters':>12}",
    ]
    for name, offer in document["strategies"].items():
        times = [seconds_in_words(offer[f"{part}_seconds"]) for part in ("compute", "exposed", "hidden")]
        lines.append(
            f"{name:8}{'x'.join(map(str, offer['grid'])):>12}"
            + "".join(f"{each:>11}" for each in times)
            + f"{bytes_in_words(offer['bytes']):>10}{seconds_in_words(offer['seconds']):>11}"
            + f"{bytes_in_words(offer['parameter_bytes']):>12}"
        )
    for name in document["impossible"]:
        lines.append(f"{name:8}  {_why_not(name, document)}")
    grid = "x".join(map(str, choice["grid"]))
    lines.append(
        f"choose --comm {choice['comm']}{f' --grid {grid}' if choice['comm'] == 'hybrid' else ''}: "
        f"{seconds_in_words(choice['seconds'])} a step, {choice['speedup']:.3g} times one rank's speed"
    )
    lines.append(choice["why"])
    if document["oversubscribed"]:
        lines.append(
            f"these {document['ranks']} ranks share the {machine['cores']} cores of this machine: "
            "for others give --bandwidth and --latency"
        )
    return "\n".join(lines)
