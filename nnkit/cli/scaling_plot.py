"""`nnkit scaling --plot FILE`: where the time of a step goes, what is summed, what more ranks gain."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnkit.errors import OutputError, reason

COLOURS = {"compute": "#4c72b0", "exposed": "#c44e52"}
MARKERS = "os^Dv"


def draw_scaling(path: Path, document: dict[str, Any]) -> None:
    """Write the picture: a bar chart of every width, bytes over width, efficiency over ranks.

    Raises OutputError.
    """
    from matplotlib.figure import Figure

    rows: list[dict[str, Any]] = document["rows"]
    widths = sorted({row["hidden"] for row in rows})
    columns = max(2, len(widths))
    figure = Figure(figsize=(4.8 * columns, 8.4), layout="constrained")
    figure.suptitle(
        f"784-n-10, batch {document['batch']}: {document['backend']} on {document['device']}, "
        f"{document['cores']} cores, one thread a rank"
    )
    grid = figure.add_gridspec(2, columns * 2)
    for number, width in enumerate(widths):
        _bars(
            figure.add_subplot(grid[0, 2 * number : 2 * number + 2]),
            [row for row in rows if row["hidden"] == width],
        )
    _bytes(figure.add_subplot(grid[1, :columns]), rows)
    _efficiency(figure.add_subplot(grid[1, columns:]), rows, document["cores"])
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise OutputError(f"--plot {path}: cannot write: {reason(error)}: give another file") from None


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
        label="communication and waiting, exposed",
    )
    beside = [place + 0.36 for place in places]
    axes.bar(beside, hidden, 0.18, color="none", edgecolor="0.4", hatch="////", label="communication hidden")
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


def _bytes(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Bytes that a rank sums in a step, over the width."""
    for number, (comm, ranks) in enumerate(_series(rows)):
        chosen = [row for row in rows if (row["comm"], row["ranks"]) == (comm, ranks) and row["bytes"]]
        if chosen:
            axes.plot(
                [row["hidden"] for row in chosen],
                [row["bytes"] for row in chosen],
                marker=MARKERS[number % len(MARKERS)],
                label=f"{comm}, {ranks} ranks",
                alpha=0.8,
            )
    axes.set(title="Bytes that a rank sums", xlabel="n", ylabel="bytes a step", xscale="log", yscale="log")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=8)


def _efficiency(axes: Any, rows: Sequence[dict[str, Any]], cores: int) -> None:
    """Speed over that of one rank, by ranks: the widest network."""
    widest = max(row["hidden"] for row in rows)
    ranks = sorted({row["ranks"] for row in rows})
    axes.plot(
        ranks, [min(each, cores) for each in ranks], "--", color="0.6", label="all that the cores allow"
    )
    alone = [row for row in rows if row["ranks"] == 1]
    styles = ("-", "--", ":", "-.")
    widths = sorted({row["hidden"] for row in rows})
    for number, comm in enumerate(dict.fromkeys(row["comm"] for row in rows if row["ranks"] > 1)):
        for style, width in zip(styles, reversed(widths), strict=False):
            chosen = [
                row for row in [*alone, *rows] if row["hidden"] == width and row["comm"] in (comm, "none")
            ]
            points = sorted({(row["ranks"], row["speedup"]) for row in chosen})
            axes.plot(
                [each for each, _ in points],
                [speedup for _, speedup in points],
                style,
                marker=MARKERS[number % len(MARKERS)],
                color=f"C{number}",
                label=comm if width == widest else None,
            )
    axes.set(xlabel="ranks", ylabel="speed, one rank = 1", xticks=ranks, ylim=(0, None))
    axes.set_title(
        "Speed by ranks: "
        + ", ".join(
            f"{name} n = {width}"
            for name, width in zip(("solid", "dashed", "dotted", "dash-dot"), reversed(widths), strict=False)
        ),
        fontsize=10,
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _series(rows: Sequence[dict[str, Any]]) -> list[tuple[str, int]]:
    return list(dict.fromkeys((row["comm"], row["ranks"]) for row in rows if row["ranks"] > 1))
