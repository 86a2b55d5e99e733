"""What was measured and predicted, as a table for people."""

from typing import Any

from nnkit.cost.units import bytes_in_words, seconds_in_words


def in_words(document: dict[str, Any]) -> str:
    """The report for people."""
    lines = [
        f"784-n-10, batch {document['batch']}, backend {document['backend']} on {document['device']}, "
        f"{document['cores']} cores, one thread a rank",
        f"{'comm':8}{'ranks':>6} {'grid':>6}{'n':>7}{'a step':>11}{'compute':>11}{'exposed':>11}"
        f"{'hidden':>11}{'bytes':>10}{'efficiency':>11}{'predicted':>11}{'error':>7}",
    ]
    for each in document["rows"]:
        grid = "x".join(map(str, each["grid"])) if each["grid"] else "-"
        times = [each[f"{name}seconds"] for name in ("", "compute_", "exposed_", "hidden_")]
        predicted, error = "-", "-"
        if each["predicted"]:
            predicted, error = seconds_in_words(each["predicted"]["seconds"]), f"{each['error']:+.0%}"
        lines.append(
            f"{each['comm']:8}{each['ranks']:>6} {grid:>6}{each['hidden']:>7}"
            + "".join(f"{seconds_in_words(seconds):>11}" for seconds in times)
            + f"{bytes_in_words(each['bytes']):>10}{each['efficiency']:>11.0%}{predicted:>11}{error:>7}"
            + (" oversubscribed" if each["oversubscribed"] else "")
        )
    lines += [_crossing_in_words(each) for each in document["crossings"]]
    if any(each["oversubscribed"] for each in document["rows"]):
        lines.append(
            "oversubscribed: more ranks than cores take turns, so a rank's waiting is mostly another's "
            "computing, and no efficiency above cores / ranks is possible"
        )
    return "\n".join(lines)


def _crossing_in_words(each: dict[str, Any]) -> str:
    below, above = (
        (each["first"], each["second"]) if each["cheaper_below"] else (each["second"], each["first"])
    )
    what = {"time": "faster", "bytes": "fewer bytes"}[each["of"]]
    where = f"{each['ranks']} ranks, {each['source']}"
    if each["hidden"] is None:
        return f"{where}: {below}: {what} than {above} at every n" + (" run" if each["of"] == "time" else "")
    return f"{where}: {below}: {what} below n = {each['hidden']}, {above} above"
