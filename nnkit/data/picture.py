"""A picture file as a sample like those of MNIST; bit depth, orientation and transparency are respected."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnkit.data.strokes import FAINTEST, SIDE, WORKING, centred, strokes
from nnkit.errors import DataError, reason

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 64_000_000

FORMATS = ("PNG", "JPEG", "MPO", "TIFF", "BMP", "GIF", "WEBP", "PPM", "TGA", "ICO", "JPEG2000", "AVIF")
"""The formats that are read. Pillow knows others, such as PostScript, for which it runs other programs."""

DEPTHS = (1.0, 255.0, 65535.0)
"""The values that may stand for white, in formats whose numbers have no fixed range."""


def read_picture(path: Path) -> npt.NDArray[np.uint8]:
    """The picture as (1, 784) bytes, white strokes on black. A 28 x 28 picture on black stays as it is.

    Raises DataError if the file is no picture, is damaged or too large, or shows nothing.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            grey = _read(path)
    except DataError:
        raise
    except Exception as error:
        # A damaged file may make a decoder raise almost any exception.
        raise DataError(f"cannot read the picture {path}: {reason(error)}: give a PNG or JPEG file") from None
    if not grey.size:
        raise DataError(f"the picture {path} has no pixels: give one with a digit")
    pixels = np.rint(grey * 255).astype(np.uint8)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    if pixels.shape == (SIDE, SIDE) and np.median(border) == 0 and pixels.max() >= 255 * FAINTEST:
        return pixels.reshape(1, -1)
    seen = strokes(grey)
    if seen is None:
        raise DataError(f"{path} shows nothing: it needs a digit that stands out from its background")
    return centred(seen).reshape(1, -1)


def _read(path: Path) -> npt.NDArray[np.float64]:
    """The picture's brightness (rows, columns): 0 is black, 1 is white."""
    from PIL import Image, ImageOps

    Image.init()
    known = tuple(name for name in FORMATS if name in Image.OPEN)
    # Reading a pipe or a device might never end.
    if path.exists() and not path.is_file() and not path.is_dir():
        raise DataError(f"cannot read the picture {path}: it is no file: give a PNG or JPEG file")
    with Image.open(path, formats=known) as picture:
        if picture.width * picture.height > MAX_PIXELS:
            raise DataError(f"{path} is too large ({picture.width} x {picture.height}): scale it down")
        return _brightness(ImageOps.exif_transpose(picture))


def _brightness(picture: "Image") -> npt.NDArray[np.float64]:
    from PIL import Image

    if picture.mode in ("F", "I") or picture.mode.startswith("I;16"):
        clear = picture.info.get("transparency")
        numbers = np.asarray(picture).astype(np.float64)
        if not np.isfinite(numbers).all():
            raise ValueError("it has pixels that are no numbers")
        # 16-bit numbers have a fixed range; for the others it has to be guessed.
        grey = numbers / 65535 if picture.mode.startswith("I;16") else _to_unit(numbers)
        return np.where(numbers == clear, 1.0, grey) if isinstance(clear, int) else grey
    if picture.mode == "LAB":
        return np.asarray(picture.getchannel(0)) / 255.0
    # Transparent pixels become white: most drawings are dark strokes on a page.
    rgba = picture.convert("RGB").convert("RGBA") if picture.mode == "CMYK" else picture.convert("RGBA")
    # Scale large pictures down first: as float64 they would take eight times the memory.
    rgba = rgba.reduce(max(1, max(rgba.size) // (4 * WORKING)))
    page = Image.new("RGBA", rgba.size, "white")
    page.alpha_composite(rgba)
    return np.asarray(page.convert("L")) / 255.0


def _to_unit(numbers: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Scaled to [0, 1], by the smallest of DEPTHS that holds all numbers; else by their own range."""
    if not numbers.size:
        return numbers
    low, high = float(numbers.min()), float(numbers.max())
    if low >= 0:
        for white in DEPTHS:
            if high <= white:
                return numbers / white
    return (numbers - low) / (high - low) if high > low else np.zeros_like(numbers)
