"""`--plot FILE`: loss and accuracy by epoch, and the confusion matrix on the test set."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnkit.errors import OutputError, reason
from nnkit.train.files import check_writable

SUFFIXES = (".png", ".pdf", ".svg")


def check_plot(path: Path) -> None:
    """Raise OutputError unless a plot can be written to `path`; leaves what is there."""
    if path.suffix.lower() not in SUFFIXES:
        raise OutputError(f"--plot {path}: the name must end in one of {', '.join(SUFFIXES)}")
    try:
        check_writable(path)
    except OSError as error:
        raise OutputError(f"--plot {path}: cannot write: {reason(error)}: give another file") from None


def draw(
    path: Path, history: list[dict[str, Any]], confusion: npt.NDArray[np.int64], test_accuracy: float
) -> None:
    """Write the picture. `history` holds the records of the epochs. Raises OutputError."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(15, 4.6), layout="constrained")
    losses, accuracies, matrix = figure.subplots(1, 3)
    epochs = [record["epoch"] for record in history]
    validated = [record for record in history if record["validation_loss"] is not None]
    held_out = [record["epoch"] for record in validated]

    losses.plot(epochs, [record["train_loss"] for record in history], "o-", label="training")
    losses.plot(held_out, [record["validation_loss"] for record in validated], "s-", label="validation")
    losses.set(title="Loss", xlabel="epoch", ylabel="mean cross-entropy", ylim=(0, None))
    losses.legend()

    percent = [100 * record["validation_accuracy"] for record in validated]
    accuracies.plot(held_out, percent, "s-", color="C1", label="validation")
    accuracies.axhline(
        100 * test_accuracy, color="C2", label=f"test, at the end: {100 * test_accuracy:.2f} %"
    )
    accuracies.set(title="Accuracy", xlabel="epoch", ylabel="recognised, %")
    accuracies.legend(loc="lower right")
    for axes in (losses, accuracies):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)

    # Colour shows the mistakes alone: the diagonal is so much larger that they would all look alike.
    mistakes = confusion.astype(float)
    np.fill_diagonal(mistakes, 0)
    matrix.imshow(mistakes, cmap="Oranges")
    for (row, column), count in np.ndenumerate(confusion):
        right = row == column
        dark = mistakes[row, column] > 0.6 * mistakes.max()
        colour = "0.35" if right else "white" if dark else "black"
        matrix.text(
            column, row, str(count) if count else "", ha="center", va="center", fontsize=8, color=colour
        )
    digits = range(len(confusion))
    matrix.set(
        title="Confusion on the test set", xlabel="taken for", ylabel="digit", xticks=digits, yticks=digits
    )

    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise OutputError(f"--plot {path}: cannot write: {reason(error)}: give another file") from None
