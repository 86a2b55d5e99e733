"""`nnkit scaling --plot FILE`: where the time of a step goes, what is summed, what more ranks gain."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnkit.errors import OutputError, reason

COLOURS = {"compute": "#4c72b0", "exposed": "#c44e52"}
MARKERS = "os^Dv"


def draw_scaling(path: Path, document: dict[str, Any]) -> None:
    """Write the picture: where a step's time goes, by width; time and bytes over width; speed by ranks.

    Raises OutputError.
    """
    from matplotlib.figure import Figure

    rows: list[dict[str, Any]] = document["rows"]
    figure = Figure(figsize=(18, 10), layout="constrained")
    figure.suptitle(
        f"784-n-10, batch {document['batch']}: {document['backend']} on {document['device']}, "
        f"{document['cores']} cores, one thread a rank"
    )
    parts: Any = figure.subfigures(2, 1)
    upper, lower = parts
    shown = _some(sorted({row["hidden"] for row in rows}))
    for axes, width in zip(upper.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        _bars(axes, [row for row in rows if row["hidden"] == width])
    times, sizes, speeds = lower.subplots(1, 3)
    _times(times, rows, document["crossings"])
    _bytes(sizes, rows)
    _speeds(speeds, rows, document["cores"])
    try:
        figure.savefig(path, dpi=100)
    except OSError as error:
        raise OutputError(f"--plot {path}: cannot write: {reason(error)}: give another file") from None


def _some(widths: Sequence[int]) -> list[int]:
    """At most four of them, the first and the last among these."""
    count = min(4, len(widths))
    return [widths[number * (len(widths) - 1) // max(1, count - 1)] for number in range(count)]


def _bars(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Time a step: computing and waiting stacked, hidden communication beside, the prediction as a mark."""
    places = range(len(rows))
    compute = [1e3 * row["compute_seconds"] for row in rows]
    exposed = [1e3 * row["exposed_seconds"] for row in rows]
    hidden = [1e3 * row["hidden_seconds"] for row in rows]
    axes.bar(places, compute, 0.5, color=COLOURS["compute"], label="compute")
    axes.bar(
        places,
        exposed,
        0.5,
        bottom=compute,
        color=COLOURS["exposed"],
        label="sums and waiting, exposed",
    )
    beside = [place + 0.36 for place in places]
    axes.bar(
        beside,
        hidden,
        0.18,
        color="none",
        edgecolor="0.4",
        hatch="////",
        label="sums, hidden behind computing",
    )
    known = [(place, 1e3 * row["predicted"]["seconds"]) for place, row in enumerate(rows) if row["predicted"]]
    axes.plot(
        [place for place, _ in known],
        [seconds for _, seconds in known],
        linestyle="none",
        marker="D",
        markersize=5,
        color="black",
        label="predicted",
    )
    labels = [f"{row['comm']} {row['ranks']}{'*' if row['oversubscribed'] else ''}" for row in rows]
    axes.set_xticks(list(places), labels, rotation=60, ha="right", fontsize=8)
    star = "\n(* more ranks than cores)" if any(row["oversubscribed"] for row in rows) else ""
    axes.set(title=f"n = {rows[0]['hidden']}", ylabel="ms a step", ylim=(0, None))
    axes.set_xlabel(f"strategy and ranks{star}", fontsize=9)
    axes.grid(axis="y", alpha=0.3)
    axes.set_ylim(0, 1.35 * axes.get_ylim()[1])
    axes.legend(fontsize=8, loc="upper left")


def _times(axes: Any, rows: Sequence[dict[str, Any]], crossings: Sequence[dict[str, Any]]) -> None:
    """Time a step over the width, and where two strategies cross."""
    for comm, ranks, chosen in _series(rows):
        axes.plot(
            [row["hidden"] for row in chosen],
            [1e3 * row["seconds"] for row in chosen],
            label=f"{comm}, {ranks}",
            **_style(comm, ranks, rows),
        )
    met = [each for each in crossings if each["source"] == "measured" and each["hidden"] is not None]
    for number, each in enumerate(met):
        axes.axvline(
            each["hidden"],
            color="0.5",
            linewidth=0.8,
            linestyle=":",
            label=None if number else "measured crossings",
        )
    axes.set(title="Time a step, by strategy and ranks", xlabel="n", ylabel="ms", xscale="log", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, handlelength=3)


def _bytes(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Bytes that a rank sums in a step, over the width; one line for those that are alike."""
    lines: dict[tuple[int, ...], list[str]] = {}
    for comm, ranks, chosen in _series(rows):
        lines.setdefault(tuple(row["bytes"] for row in chosen), []).append(f"{comm} {ranks}")
    widths = sorted({row["hidden"] for row in rows})
    for number, (sizes, names) in enumerate(lines.items()):
        if any(sizes):
            axes.plot(widths, sizes, marker=MARKERS[number % len(MARKERS)], label=", ".join(names))
    axes.set(title="Bytes that a rank sums in a step", xlabel="n", xscale="log", yscale="log")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=8, handlelength=3)


def _speeds(axes: Any, rows: Sequence[dict[str, Any]], cores: int) -> None:
    """Speed over that of one rank, by ranks: the narrowest and the widest network."""
    ranks, widths = (sorted({row[name] for row in rows}) for name in ("ranks", "hidden"))
    axes.plot(ranks, [min(each, cores) for each in ranks], color="0.7", label="all that the cores allow")
    for comm in dict.fromkeys(row["comm"] for row in rows if row["ranks"] > 1):
        for width, style in {widths[0]: "--", widths[-1]: "-"}.items():
            points = sorted(
                (row["ranks"], row["speedup"])
                for row in rows
                if row["hidden"] == width and (row["comm"] == comm or row["ranks"] == 1)
            )
            axes.plot(
                [each for each, _ in points],
                [speedup for _, speedup in points],
                style,
                marker="o",
                color=_colour(comm, rows),
                label=f"{comm}, n = {width}",
            )
    axes.set(title="Speed, one rank = 1", xlabel="ranks", xticks=ranks, ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, handlelength=3)


def _series(rows: Sequence[dict[str, Any]]) -> list[tuple[str, int, list[dict[str, Any]]]]:
    """Strategy, ranks, and their rows by width."""
    names = dict.fromkeys((row["comm"], row["ranks"]) for row in rows)
    return [
        (*name, sorted((row for row in rows if (row["comm"], row["ranks"]) == name), key=_width))
        for name in names
    ]


def _width(row: dict[str, Any]) -> int:
    width: int = row["hidden"]
    return width


def _style(comm: str, ranks: int, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A colour for every strategy, a marker for every number of ranks."""
    number = sorted({row["ranks"] for row in rows}).index(ranks)
    return {"color": _colour(comm, rows), "marker": MARKERS[number % len(MARKERS)], "alpha": 0.8}


def _colour(comm: str, rows: Sequence[dict[str, Any]]) -> str:
    """Grey for one rank alone, then one after the other as they come."""
    several = [*dict.fromkeys(row["comm"] for row in rows if row["ranks"] > 1)]
    return f"C{several.index(comm)}" if comm in several else "0.4"
