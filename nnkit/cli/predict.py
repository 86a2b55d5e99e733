"""`nnkit predict`: which digit is it?"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nnkit.cli import options
from nnkit.errors import UsageError

if TYPE_CHECKING:
    from nnkit.data import Samples


def predict(
    source: Annotated[
        str, typer.Argument(metavar="IMAGE|INDEX", help="A PNG file, or the index of a test image.")
    ],
    checkpoint: options.CheckpointPath,
    data: options.Data = None,
    backend: options.Backend = "numpy",
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Print the probability of each digit for one image."""
    from nnkit.cli.network import open_network
    from nnkit.train.checkpoints import load_checkpoint
    from nnkit.train.evaluation import Data, Evaluator

    saved = load_checkpoint(checkpoint)
    sample, label = _sample(source, data)
    network = open_network(saved, sample.images.shape[1], backend, device)
    row = Evaluator(network).probabilities(Data(sample, network.device))[0]
    digit = int(row.argmax())
    if json:
        probabilities = [float(p) for p in row]
        options.print_json({"digit": digit, "probabilities": probabilities, "label": label, "source": source})
        return
    for candidate, probability in enumerate(row):
        bar = "#" * round(40 * float(probability))
        print(f"{candidate}  {probability:8.4%}  {bar}".rstrip())
    print(f"it is a {digit}" + (f"; its label says {label}" if label is not None else ""))


def _sample(source: str, directory: Path | None) -> tuple["Samples", int | None]:
    """One image, and its label where there is one. A number is an index unless a file has that name."""
    import numpy as np

    from nnkit.data import Samples, load_dataset
    from nnkit.data.picture import read_picture

    if not re.fullmatch("-?[0-9]+", source) or Path(source).exists():
        return Samples(read_picture(Path(source)), np.zeros(1, np.intp), (28, 28)), None
    test = load_dataset(directory).test
    index = int(source)
    if not 0 <= index < len(test):
        raise UsageError(f"{source}: the test set has images 0 to {len(test) - 1}")
    one = slice(index, index + 1)
    return Samples(test.images[one], test.labels[one], test.image_shape), int(test.labels[index])
