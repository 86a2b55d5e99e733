"""Small data sets as IDX files."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnkit.data.idx import DTYPES

CODES = {np.dtype(name): code for code, name in DTYPES.items()}
TRAIN, TEST = 300, 60


def idx_bytes(array: npt.NDArray[Any]) -> bytes:
    """The array as the content of an IDX file."""
    big = array.dtype.newbyteorder(">")
    header = bytes([0, 0, CODES[big], array.ndim])
    return header + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.astype(big).tobytes()


def write_idx(path: Path, array: npt.NDArray[Any]) -> Path:
    """Write an IDX file, gzipped if its name ends in .gz."""
    content = idx_bytes(array)
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    return path


def write_dataset(
    folder: Path, suffix: str = "", seed: int = 0, counts: tuple[int, int] = (TRAIN, TEST)
) -> Path:
    """The four files of a data set that a network can learn: ten pictures on black, with noise."""
    generator = np.random.default_rng(seed)
    pictures = generator.integers(0, 200, (10, 28, 28))
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, count in zip(("train", "t10k"), counts, strict=True):
        labels = generator.integers(0, 10, count)
        images = np.zeros((count, 28, 28), np.uint8)
        noise = generator.integers(0, 55, (count, 24, 24))
        images[:, 2:26, 2:26] = pictures[labels, 2:26, 2:26] + noise
        write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", labels.astype(np.uint8))
    return folder
