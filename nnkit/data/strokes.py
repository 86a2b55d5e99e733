"""The strokes of a picture: thin, and darker or lighter than their surroundings, in any light.

For dark strokes, the brightness of the page is estimated by a morphological closing of the picture (Soille,
Morphological Image Analysis, 2003, chapter 4). It follows gradients, vignettes and the edges of shadows, and
fills in whatever is narrower than its window: the strokes. They are the difference from that estimate.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

SIDE = 28
DIGIT = 20
"""As in MNIST: the digit fits into 20 x 20 pixels, and its centre of mass is the centre of 28 x 28."""

FAINTEST = 1 / 8
"""The least contrast with the page that counts as a stroke."""

WORKING = 320
"""Pixels of the longer side; larger pictures are scaled down to this before strokes are looked for."""

COARSE = 32
"""The same, to find out whether the strokes are dark or light."""

WIDEST = 1 / 3
"""The window's width as a fraction of the longer side; strokes are narrower."""

NOISE = 5.0
"""A pixel that differs from the page by less than this many standard deviations is noise."""

SPECK = 1 / 25
"""A spot whose area is less than this fraction of the largest one's is dirt."""

Grey = npt.NDArray[np.float64]


def strokes(grey: Grey) -> npt.NDArray[np.uint8] | None:
    """White strokes on black, WORKING pixels or fewer on each side; None if there are none.

    `grey` (rows, columns) has 0 for black and 1 for white.
    """
    grey = _smooth(_scaled_down(grey, WORKING))
    window = max(3, round(max(grey.shape) * WIDEST))
    if _is_dark_on_light(grey):
        page = closing(grey, window)
        # A quotient: the ratio of paper's reflectance to ink's is the same in every light.
        return _shown((page - grey) / np.maximum(page, 0.02), page - grey)
    board = -closing(-grey, window)
    return _shown((grey - board) / (board + 0.1), grey - board)


def _is_dark_on_light(grey: Grey) -> bool:
    """Whether strokes are darker than the page around them.

    The median over a large window is the brightness of the page, as strokes cover less than half of it.
    """
    small = _scaled_down(grey, COARSE)
    half = max(small.shape) // 4
    around = np.lib.stride_tricks.sliding_window_view(
        np.pad(small, half, mode="symmetric" if half <= min(small.shape) else "edge"), (2 * half + 1,) * 2
    )
    beyond = small - np.median(around, axis=(2, 3))
    # Cubed, a few pixels with a large difference outweigh many with noise.
    return float((beyond**3).sum()) < 0


def _shown(depth: Grey, contrast: Grey) -> npt.NDArray[np.uint8] | None:
    """The strokes, from each pixel's difference to the page: `depth` is relative, `contrast` absolute."""
    bare = depth[depth <= depth.max() / 2]
    level = float(np.median(bare)) if bare.size else 0.0
    noise = 1.4826 * float(np.median(np.abs(bare - level))) if bare.size else 0.0
    depth = depth - level
    peak = float(np.percentile(depth[depth >= depth.max() / 2], 90))
    least = NOISE * noise
    mask = depth > max(least, peak / 4)
    if not mask.any() or contrast.max() < FAINTEST / 2 or peak < max(2 * least, FAINTEST):
        return None
    kept = _widened(_without_dirt(mask))
    shown = np.clip((depth - least) / (peak - least), 0, 1)
    return np.asarray(np.rint(np.where(kept, shown, 0) * 255), np.uint8)


def closing(grey: Grey, window: int) -> Grey:
    """Morphological closing: for each pixel, the least of the maxima over all windows that contain it.

    The windows are squares, and may extend beyond the edges of the picture.
    """
    padded = np.pad(grey, window - 1, constant_values=-np.inf)
    for axis in (0, 1):
        padded = _slide(padded, window, axis, np.maximum)
    for axis in (0, 1):
        padded = _slide(padded, window, axis, np.minimum)
    return padded


def _slide(values: npt.NDArray[Any], window: int, axis: int, most: Any) -> npt.NDArray[Any]:
    """The extreme (`most` is np.maximum or np.minimum) of each window along an axis.

    The result is shorter by window - 1.
    """
    values = np.moveaxis(values, axis, 0)
    span = 1
    while 2 * span <= window:
        values = most(values[:-span], values[span:])
        span *= 2
    rest = window - span
    values = most(values[: len(values) - rest], values[rest:])
    return np.moveaxis(values, 0, axis)


def _scaled_down(grey: Grey, longest: int) -> Grey:
    from PIL import Image

    longer = max(grey.shape)
    if longer <= longest:
        return grey
    rows, columns = (max(1, round(length * longest / longer)) for length in grey.shape)
    small = Image.fromarray(grey.astype(np.float32)).resize((columns, rows), Image.Resampling.BOX)
    return np.asarray(small).astype(np.float64)


def _smooth(grey: Grey) -> Grey:
    """The mean over 3 x 3 pixels if most neighbours differ, as they do with a camera's noise."""
    if min(grey.shape) < 3 * DIGIT or np.median(np.abs(np.diff(grey, axis=1))) < 1 / 255:
        return grey
    around = np.pad(grey, 1, mode="edge")
    rows, columns = grey.shape
    pieces = [around[y : y + rows, x : x + columns] for y in range(3) for x in range(3)]
    return np.asarray(np.mean(pieces, axis=0))


def _widened(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The mask with the pixels around it (dilation): the soft edge of a stroke belongs to it."""
    for axis in (0, 1):
        grown = mask.copy()
        ahead, behind = np.moveaxis(grown, axis, 0), np.moveaxis(mask, axis, 0)
        ahead[1:] |= behind[:-1]
        ahead[:-1] |= behind[1:]
        mask = grown
    return mask


def _without_dirt(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The large spots; only those that do not touch the border, unless the largest ones do."""
    labels = label(mask)
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    inner = areas.copy()
    inner[border] = 0
    if 4 * inner.max() >= areas.max():
        areas = inner
    large = areas >= max(1.0, SPECK * areas.max())
    return np.asarray(large[labels] & mask)


def label(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """Connected components, corners included: their pixels numbered from 1, others 0."""
    numbers = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        around = _slide(_slide(np.pad(numbers, 1), 3, 0, np.maximum), 3, 1, np.maximum)
        largest = np.where(mask, around, 0)
        # A pixel's number is the index of a pixel of the same component: take over that one's number.
        largest = np.where(mask, np.concatenate([[0], largest.ravel()])[largest], 0)
        if np.array_equal(largest, numbers):
            known = np.unique(np.append(numbers, 0))
            return np.asarray(np.searchsorted(known, numbers))
        numbers = largest


def centred(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """White strokes on black, cropped, scaled into 20 x 20 and centred by mass in 28 x 28."""
    from PIL import Image

    inked = np.argwhere(pixels > 64)
    (top, left), (bottom, right) = inked.min(axis=0), inked.max(axis=0) + 1
    digit = Image.fromarray(pixels[top:bottom, left:right])
    scale = DIGIT / max(digit.size)
    size = max(1, round(digit.width * scale)), max(1, round(digit.height * scale))
    small = np.asarray(digit.resize(size, Image.Resampling.LANCZOS)).astype(np.float64)
    # Scaling down has made thin strokes faint: brighten them.
    small = np.minimum(small * (255 / max(small.max(), 1.0)), 255)
    rows, columns = np.indices(small.shape)
    mass = max(small.sum(), 1.0)
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    middle = (SIDE - 1) / 2
    y = int(np.clip(round(middle - (rows * small).sum() / mass), 0, SIDE - small.shape[0]))
    x = int(np.clip(round(middle - (columns * small).sum() / mass), 0, SIDE - small.shape[1]))
    canvas[y : y + small.shape[0], x : x + small.shape[1]] = small.round()
    return canvas
