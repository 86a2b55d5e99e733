"""`nnkit predict`: which digit is it?"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nnkit.cli import options
from nnkit.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from nnkit.data import Samples


def predict(
    source: Annotated[
        str, typer.Argument(metavar="IMAGE|INDEX", help="A PNG or JPEG file, or the index of a test image.")
    ],
    checkpoint: options.CheckpointPath,
    data: options.Data = None,
    backend: options.Backend = "numpy",
    device: options.Device = "auto",
    show: Annotated[bool, typer.Option("--show", help="Print the image as the network sees it.")] = False,
    json: options.Json = False,
) -> None:
    """Print the probability of each digit for one image."""
    from nnkit.cli.network import open_network
    from nnkit.train.checkpoints import load_checkpoint
    from nnkit.train.evaluation import DeviceSamples, Evaluator

    saved = load_checkpoint(checkpoint)
    sample, label = _sample(source, data)
    network = open_network(saved, sample.images.shape[1], backend, device)
    row = Evaluator(network).probabilities(DeviceSamples(sample, network.device))[0]
    digit = int(row.argmax())
    if json:
        probabilities = [float(p) for p in row]
        document = {"digit": digit, "probabilities": probabilities, "label": label, "source": source}
        if show:
            document["image"] = sample.images[0].reshape(sample.image_shape).tolist()
        options.print_json(document)
        return
    if show:
        print(in_characters(sample.images[0].reshape(sample.image_shape)))
    for candidate, probability in enumerate(row):
        bar = "#" * round(40 * float(probability))
        print(f"{candidate}  {probability:8.4%}  {bar}".rstrip())
    print(f"it is a {digit}" + (f"; its label says {label}" if label is not None else ""))


SHADES = " .:-=+*#%@"
"""From black to white: each character fills more of its cell than the one before, in any font."""


def in_characters(image: "npt.NDArray[np.uint8]") -> str:
    """The image (rows, columns) of bytes as text.

    Each pixel is two characters, because a character is about twice as high as wide.
    """
    rows = (image.astype(int) * len(SHADES) // 256).tolist()
    return "\n".join("".join(2 * SHADES[shade] for shade in row).rstrip() for row in rows)


def _sample(source: str, directory: Path | None) -> tuple["Samples", int | None]:
    """One image, and its label if it has one. A number is an index, unless a file has that name."""
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
