"""The plan itself: each strategy predicted in the grid that suits it best, and the fastest of them chosen."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from nnkit.contracts import Grid, PredictableBackend, Task
from nnkit.cost.grids import fastest, fitting, predictable
from nnkit.cost.model import Prediction, predict
from nnkit.cost.step import alone
from nnkit.cost.units import bytes_in_words, seconds_in_words
from nnkit.errors import UsageError
from nnkit.plan.machine import Described, machine_of
from nnkit.plugins import Registry

STRATEGIES = ("data", "model", "hybrid")
"""What is compared where nothing else is asked for."""


def choose(
    task: Task,
    ranks: int,
    names: Sequence[str],
    described: Described,
    backend: str,
    device: str,
    tell: Callable[[str], object],
) -> dict[str, Any]:
    """The plan as a document. Raises UsageError where no strategy gives all ranks work.

    `names` are the strategies to choose from; `tell` hears what is measured before it is.
    """
    registry = Registry.discover()
    backends = [_known(registry, name) for name in names]
    network = "-".join(map(str, task.sizes))
    try:
        possible = {each.name: grids_to_compare(each, task, ranks) for each in backends}
        if ranks > 1 and not any(possible.values()):
            raise UsageError(
                f"--ranks {ranks} with --comm {','.join(names)}: batch {task.batch} and layers {network} "
                "have too few parts for all: give fewer ranks, a larger --batch, a wider --hidden or another "
                "--comm"
            )
        machine = machine_of(described, task, ranks, backends, backend, device, tell)
        one = predict(alone(task.sizes, task.batch), (1, 1), machine)
        found = {each.name: fastest(each, task, possible[each.name], machine) for each in backends}
    except OverflowError:
        hidden = ",".join(map(str, task.sizes[1:-1]))
        raise UsageError(f"--batch {task.batch}, --hidden {hidden}: too large to compute with") from None
    offers = {name: offer for name, offer in found.items() if offer} if ranks > 1 else {"none": one}
    if not all(math.isfinite(each.seconds) for each in (one, *offers.values())):
        raise UsageError("a step takes longer than can be computed with: give another link or --flops")
    chosen = min(offers, key=lambda name: (offers[name].seconds, offers[name].bytes))
    return {
        "network": list(task.sizes),
        "batch": task.batch,
        "ranks": ranks,
        "machine": machine.to_json(),
        "assumed": described.sources(),
        "oversubscribed": machine.crowding(ranks) > 1,
        "one_rank_seconds": one.seconds,
        "strategies": {name: offer.to_json() for name, offer in offers.items()},
        "impossible": [name for name in names if name not in offers] if ranks > 1 else [],
        "choice": {
            "comm": chosen,
            "grid": list(offers[chosen].grid),
            "seconds": offers[chosen].seconds,
            "speedup": one.seconds / offers[chosen].seconds,
            "why": why(chosen, offers, one),
        },
    }


def _known(registry: Registry, name: str) -> PredictableBackend:
    """The strategy of that name. Raises UsageError unless there is one whose steps can be predicted."""
    names = registry.names("comm")
    if name in names:
        found = predictable(registry.comm(name))
        if found is None:
            raise UsageError(
                f"--comm {name} does not say what its steps ask of a rank, so no plan can be made: "
                "nnkit scaling measures it, and nnkit.contracts.PredictableBackend is what it lacks"
            )
        return found
    known = [each for each in names if predictable(registry.comm(each))]
    known.sort(key=lambda each: STRATEGIES.index(each) if each in STRATEGIES else len(STRATEGIES))
    raise UsageError(f"--comm {name}: a plan knows {', '.join(known)}: give some of these")


def grids_to_compare(backend: PredictableBackend, task: Task, ranks: int) -> list[Grid]:
    """The grids that give every rank work; of a strategy with a choice those that are its own.

    With one part of batch or network they would be data or model parallel under another name.
    """
    choice = len(backend.grids(ranks)) > 1
    return [grid for grid in fitting(backend, task, ranks) if min(grid) > 1 or not choice]


def why(chosen: str, offers: dict[str, Prediction], one: Prediction) -> str:
    """One sentence: what decides."""
    best = offers[chosen]
    others = {name: offer for name, offer in offers.items() if name != chosen}
    if best.seconds > one.seconds:
        warning = f"; one rank alone would be faster ({seconds_in_words(one.seconds)})"
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
