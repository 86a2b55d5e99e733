"""The plan itself: each strategy predicted in the grid that suits it best, and the fastest of them chosen."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from nnkit.cost.model import Machine, Prediction, grids, predict
from nnkit.cost.units import bytes_in_words, seconds_in_words
from nnkit.errors import UsageError
from nnkit.plan.machine import Described, machine_of


def choose(
    sizes: Sequence[int],
    batch: int,
    ranks: int,
    names: Sequence[str],
    described: Described,
    backend: str,
    device: str,
    tell: Callable[[str], object],
) -> dict[str, Any]:
    """The plan as a document. Raises UsageError where no strategy gives all ranks work.

    `sizes` are the widths of all layers, input first; `tell` hears what is measured before it is.
    """
    network = "-".join(map(str, sizes))
    if ranks > 1 and not any(fitting(sizes, batch, ranks, name) for name in names):
        raise UsageError(
            f"--ranks {ranks} with --comm {','.join(names)}: batch {batch} and layers {network} have "
            "too few parts for all: give fewer ranks, a larger --batch, a wider --hidden or another --comm"
        )
    machine = machine_of(described, sizes, batch, ranks, backend, device, tell)
    try:
        alone = predict(sizes, batch, (1, 1), machine)
        offers = _offers(sizes, batch, ranks, names, machine)
    except OverflowError:
        raise UsageError(
            f"--batch {batch}, --hidden {','.join(map(str, sizes[1:-1]))}: too large to compute with"
        ) from None
    if not all(math.isfinite(each.seconds) for each in (alone, *offers.values())):
        raise UsageError("a step takes longer than can be computed with: give another link or --flops")
    chosen = min(offers, key=lambda name: (offers[name].seconds, offers[name].bytes))
    return {
        "network": list(sizes),
        "batch": batch,
        "ranks": ranks,
        "machine": machine.to_json(),
        "assumed": described.sources(),
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


def _offers(
    sizes: Sequence[int], batch: int, ranks: int, names: Sequence[str], machine: Machine
) -> dict[str, Prediction]:
    """The best grid of every strategy that can use so many ranks; hybrid splits both."""
    if ranks == 1:
        return {"none": predict(sizes, batch, (1, 1), machine)}
    offers = {}
    for name in names:
        found = [predict(sizes, batch, grid, machine) for grid in fitting(sizes, batch, ranks, name)]
        if found:
            offers[name] = min(found, key=lambda each: (each.seconds, each.bytes))
    return offers


def fitting(sizes: Sequence[int], batch: int, ranks: int, name: str) -> list[tuple[int, int]]:
    """The grids of that strategy's kind that give every rank work."""
    possible = grids(sizes, batch, ranks)
    if name == "data":
        return [grid for grid in possible if grid[1] == 1]
    if name == "model":
        return [grid for grid in possible if grid[0] == 1]
    return [grid for grid in possible if min(grid) > 1]


def why(chosen: str, offers: dict[str, Prediction], alone: Prediction) -> str:
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
