"""A picture file as a sample: turned into what the images of MNIST are, white strokes centred on black."""

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnkit.errors import DataError, reason

SIDE = 28
STROKES = 20
"""MNIST fits the digit into 20 x 20 pixels and puts its centre of mass into the middle of 28 x 28."""

FAINTEST = 32
"""The least contrast, of 255, that counts as a stroke."""

MAX_PIXELS = 64_000_000


def read_picture(path: Path) -> npt.NDArray[np.uint8]:
    """The picture as (1, 784) bytes. A 28 x 28 picture on black is taken as it is. Raises DataError."""
    from PIL import Image

    try:
        # Pillow's warning comes before our own, stricter check can answer.
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            opened = Image.open(path)
        with opened as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise DataError(f"{path} is too large ({picture.width} x {picture.height}): scale it down")
            # On white, where it is transparent: strokes are drawn dark on a page.
            rgba = picture.convert("RGBA")
            page = Image.new("RGBA", rgba.size, "white")
            page.alpha_composite(rgba)
            grey = page.convert("L")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot read the picture {path}: {reason(error)}: give a PNG file") from None
    pixels = np.asarray(grey)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    page_grey = float(np.median(border))
    contrast = pixels - page_grey if page_grey <= 127 else page_grey - pixels
    if contrast.max() < FAINTEST:
        raise DataError(f"{path} shows nothing: it needs a digit that stands out from its background")
    if pixels.shape == (SIDE, SIDE) and page_grey == 0:
        return pixels.reshape(1, -1).copy()
    strokes = np.clip(contrast * (255 / contrast.max()), 0, 255).astype(np.uint8)
    return _centred(strokes).reshape(1, -1)


def _centred(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """White strokes on black, cropped, scaled into 20 x 20 and centred by mass in 28 x 28."""
    from PIL import Image

    inked = np.argwhere(pixels > 64)
    (top, left), (bottom, right) = inked.min(axis=0), inked.max(axis=0) + 1
    digit = Image.fromarray(pixels[top:bottom, left:right])
    scale = STROKES / max(digit.size)
    size = max(1, round(digit.width * scale)), max(1, round(digit.height * scale))
    small = np.asarray(digit.resize(size, Image.Resampling.LANCZOS)).astype(np.float64)
    rows, columns = np.indices(small.shape)
    mass = max(small.sum(), 1.0)
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    middle = (SIDE - 1) / 2
    y = int(np.clip(round(middle - (rows * small).sum() / mass), 0, SIDE - small.shape[0]))
    x = int(np.clip(round(middle - (columns * small).sum() / mass), 0, SIDE - small.shape[1]))
    canvas[y : y + small.shape[0], x : x + small.shape[1]] = small.round()
    return canvas
