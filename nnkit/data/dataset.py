"""A data set: images and labels to train and to test with, checked when they are loaded."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnkit.data.idx import parse_idx, read_bytes
from nnkit.errors import DataError

CLASSES = 10
SHIPPED = Path(__file__).parent / "files"

# SHA-256 of the four files of MNIST as they are after decompression.
MNIST_SHA256 = {
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
}


@dataclass(frozen=True)
class Samples:
    """Images (N, pixels) of bytes, and labels (N,) from 0 to 9."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.intp]
    image_shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"<{len(self)} samples of {' x '.join(map(str, self.image_shape))} images>"


@dataclass(frozen=True)
class Dataset:
    """Training and test samples of one image shape. The fingerprint is a hash of the files' content."""

    train: Samples
    test: Samples
    fingerprint: str

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.train.image_shape))
        return f"<dataset of {shape} images: {len(self.train)} to train, {len(self.test)} to test>"

    @property
    def pixels(self) -> int:
        """The pixels of an image: the network's input size."""
        return int(self.train.images.shape[1])


def load_dataset(directory: Path | str | None = None) -> Dataset:
    """The data set in a directory with the four standard file names, gzipped or not; None: shipped MNIST.

    Raises DataError with the file and what is wrong with it.
    """
    try:
        folder = SHIPPED if directory is None else Path(directory)
        there = folder.is_dir()
    except (TypeError, ValueError):
        raise DataError(
            f"--data: give the path of a directory with the four IDX files of a data set, not a "
            f"{type(directory).__name__}"
        ) from None
    if not there:
        shown = folder if str(folder).isprintable() else repr(str(folder))
        raise DataError(
            f"--data {shown}: no such directory: give one that holds the four IDX files of a data set"
        )
    digest = hashlib.sha256()
    train = _load_samples(folder, "train", digest, shipped=directory is None)
    test = _load_samples(folder, "t10k", digest, shipped=directory is None)
    if train.image_shape != test.image_shape:
        raise DataError(f"{folder}: training images are {train.image_shape}, test images {test.image_shape}")
    return Dataset(train, test, digest.hexdigest())


def split_validation(samples: Samples, fraction: float, seed: int) -> tuple[npt.NDArray[np.intp], ...]:
    """The indices to train on and to validate on, sorted: a random split that depends on the seed alone.

    At least one sample is left for training.
    """
    held_out = min(round(len(samples) * fraction), len(samples) - 1)
    order = np.random.default_rng((seed, 0x5EED)).permutation(len(samples))
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def _load_samples(folder: Path, prefix: str, digest: "hashlib._Hash", shipped: bool) -> Samples:
    """The images and labels of the training or the test set. Raises DataError if they do not fit."""
    images_path, images_content = _content(folder, f"{prefix}-images-idx3-ubyte", digest, shipped)
    labels_path, labels_content = _content(folder, f"{prefix}-labels-idx1-ubyte", digest, shipped)
    images, labels = parse_idx(images_content, images_path), parse_idx(labels_content, labels_path)
    if images.dtype != np.uint8 or images.ndim < 2:
        raise DataError(
            f"{images_path} holds {images.dtype} of rank {images.ndim}: images are uint8 of rank 3"
        )
    if labels.dtype != np.uint8 or labels.ndim != 1:
        raise DataError(
            f"{labels_path} holds {labels.dtype} of rank {labels.ndim}: labels are uint8 of rank 1"
        )
    if len(images) != len(labels):
        raise DataError(
            f"{images_path} has {len(images)} images, but {labels_path.name} {len(labels)} labels"
        )
    if images.size == 0:
        raise DataError(f"{images_path} is an empty set: its shape is {images.shape}")
    if labels.max() >= CLASSES:
        where = int(np.argmax(labels >= CLASSES))
        raise DataError(f"{labels_path}: label {where} is {labels[where]}, but labels are 0 to {CLASSES - 1}")
    return Samples(images.reshape(len(images), -1), labels.astype(np.intp), images.shape[1:])


def _content(folder: Path, name: str, digest: "hashlib._Hash", shipped: bool) -> tuple[Path, bytes]:
    """The decompressed bytes of NAME or NAME.gz, added to the data set's digest."""
    path = next((p for p in (folder / name, folder / f"{name}.gz") if p.exists()), None)
    if path is None:
        raise DataError(f"{folder} holds neither {name} nor {name}.gz: a data set has four such files")
    content = read_bytes(path)
    sha256 = hashlib.sha256(content)
    digest.update(sha256.digest())
    if shipped and sha256.hexdigest() != MNIST_SHA256[name]:
        raise DataError(f"{path} is not the file that was shipped (SHA-256 differs): install nnkit anew")
    return path, content
