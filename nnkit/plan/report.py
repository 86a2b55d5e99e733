"""A plan for people: the table of the strategies, what to choose, and why."""

from collections.abc import Sequence
from typing import Any

from nnkit.contracts import Grid
from nnkit.cost.grids import predictable
from nnkit.cost.units import bytes_in_words, seconds_in_words
from nnkit.plugins import Registry


def in_words(document: dict[str, Any]) -> str:
    """The plan for people."""
    registry, ranks = Registry.discover(), document["ranks"]

    def grids(name: str) -> Sequence[Grid]:
        known = predictable(registry.comm(name))
        return known.grids(ranks) if known else ()

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
        lines.append(f"{name:8}  {_why_not(grids(name), document)}")
    grid = f" --grid {'x'.join(map(str, choice['grid']))}" if len(grids(choice["comm"])) > 1 else ""
    lines.append(
        f"choose --comm {choice['comm']}{grid}: "
        f"{seconds_in_words(choice['seconds'])} a step, {choice['speedup']:.3g} times one rank's speed"
    )
    lines.append(choice["why"])
    if document["oversubscribed"]:
        lines.append(
            f"these {document['ranks']} ranks share the {machine['cores']} cores of this machine: "
            "for others give --bandwidth and --latency"
        )
    return "\n".join(lines)


def _why_not(grids: Sequence[Grid], document: dict[str, Any]) -> str:
    """Why a strategy that takes these grids can use none of them."""
    ranks = document["ranks"]
    if not grids:
        return f"it cannot use {ranks} ranks"
    if len(grids) > 1:
        return f"no grid of {ranks} ranks cuts both batch and network and gives each of them work"
    (over_batch, over_network), *_ = grids
    if over_network == 1:
        return f"a batch of {document['batch']} has no part for each of {ranks} ranks"
    layers = "-".join(map(str, document["network"][1:-1]))
    if over_batch == 1:
        return f"layers {layers} have no part for each of {ranks} ranks"
    grid = f"{over_batch}x{over_network}"
    return f"{grid} ranks are too many for a batch of {document['batch']} or for layers {layers}"
