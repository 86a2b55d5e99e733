"""A plan for people: the table of the strategies, what to choose, and why."""

from typing import Any

from nnkit.cost.units import bytes_in_words, seconds_in_words


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


def _why_not(name: str, document: dict[str, Any]) -> str:
    ranks = document["ranks"]
    if name == "data":
        return f"a batch of {document['batch']} has no part for each of {ranks} ranks"
    if name == "model":
        return (
            f"layers {'-'.join(map(str, document['network'][1:-1]))} have no part for each of {ranks} ranks"
        )
    return f"no grid of {ranks} ranks cuts both batch and network and gives each of them work"
