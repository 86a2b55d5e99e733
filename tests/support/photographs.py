"""Synthetic photographs of digits: MNIST's images as ink on paper or chalk on a board, in uneven light."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Grey = npt.NDArray[np.float64]


def page(digit: npt.NDArray[np.uint8], generator: np.random.Generator, size: tuple[int, int]) -> Grey:
    """How much ink there is at each place of a page (rows, columns): 0 to 1, the digit somewhere on it."""
    rows, columns = size
    height = int(generator.uniform(0.4, 0.85) * min(rows, columns))
    ink = Image.fromarray(digit.reshape(28, 28)).resize((height, height), Image.Resampling.BICUBIC)
    canvas = np.zeros(size)
    top, left = generator.integers(0, rows - height + 1), generator.integers(0, columns - height + 1)
    canvas[top : top + height, left : left + height] = np.asarray(ink) / 255.0
    return np.clip((canvas - 0.35) / 0.3, 0, 1)


def gradient(shape: tuple[int, int], generator: np.random.Generator) -> Grey:
    """Light from one side: the other side gets a quarter of it."""
    rows, columns = np.indices(shape) / (np.array(shape).reshape(2, 1, 1) - 1.0)
    angle = generator.uniform(0, 2 * np.pi)
    along = np.cos(angle) * (rows - 0.5) + np.sin(angle) * (columns - 0.5)
    return np.asarray(0.25 + 0.75 * (along - along.min()) / np.ptp(along))


def vignette(shape: tuple[int, int], generator: np.random.Generator) -> Grey:
    """Dark corners."""
    rows, columns = (np.indices(shape).T / (np.array(shape) - 1.0) - 0.5).T
    return np.asarray(1 - 1.3 * (rows**2 + columns**2))


def shadow(shape: tuple[int, int], generator: np.random.Generator) -> Grey:
    """A straight edge with half the light behind it, as soft as a hand's shadow."""
    rows, columns = np.indices(shape)
    angle = generator.uniform(0, 2 * np.pi)
    distance = np.cos(angle) * (rows - shape[0] / 2) + np.sin(angle) * (columns - shape[1] / 2)
    distance += generator.uniform(-0.2, 0.2) * min(shape)
    return np.asarray(0.75 + 0.25 * np.tanh(distance / generator.uniform(1, 20)))


def even(shape: tuple[int, int], generator: np.random.Generator) -> Grey:
    """The same light everywhere."""
    return np.ones(shape)


LIGHTS = {"even": even, "gradient": gradient, "vignette": vignette, "shadow": shadow}


def photograph(
    digit: npt.NDArray[np.uint8], light: str, seed: int, chalk: bool = False, noise: float = 0.02
) -> Image.Image:
    """A grey picture of the digit, through JPEG: dark ink on paper, or chalk on a board."""
    generator = np.random.default_rng(seed)
    shape = tuple(generator.integers(180, 420, 2))
    ink = page(digit, generator, (int(shape[0]), int(shape[1])))
    paper, pen = (0.15, 0.8) if chalk else (generator.uniform(0.6, 0.95), generator.uniform(0.05, 0.25))
    seen = (paper + (pen - paper) * ink) * LIGHTS[light](ink.shape, generator)
    # A camera's numbers are not proportional to the light: gamma 1.8.
    seen = 255 * np.clip(seen + generator.normal(0, noise, ink.shape), 0, 1) ** (1 / 1.8)
    return jpeg(Image.fromarray(np.rint(seen).astype(np.uint8)))


def jpeg(picture: Image.Image, **options: Any) -> Image.Image:
    """The picture, saved as JPEG and read again."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=75, **options)
    return Image.open(stream)
