"""The strokes of a picture: what is thin and stands out from its surroundings, in whatever light.

The page's brightness at each place is what a window that slides over the picture can always find:
morphological closing, for dark strokes on light paper (Soille, Morphological Image Analysis, 2003, ch. 4).
It follows a gradient, a vignette and the edge of a shadow, and fills only what is narrower than the window.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

SIDE = 28
DIGIT = 20
"""MNIST fits the digit into 20 x 20 pixels and puts its centre of mass into the middle of 28 x 28."""

FAINTEST = 1 / 8
"""The least contrast with the page that counts as a stroke."""

WORKING = 320
"""The longer side of the picture in which strokes are looked for; larger ones are scaled down."""

COARSE = 32
"""The same for the question whether strokes are dark or light."""

WIDEST = 1 / 3
"""The window, as a part of the longer side: a stroke is narrower."""

NOISE = 5.0
"""Standard deviations of the page's noise that are taken for nothing."""

SPECK = 1 / 25
"""A spot with less area than this part of the largest one is dirt."""

Grey = npt.NDArray[np.float64]


def strokes(grey: Grey) -> npt.NDArray[np.uint8] | None:
    """White strokes on black, at most WORKING on each side; None where nothing stands out.

    `grey` (rows, columns) has 0 for black and 1 for white.
    """
    grey = _smooth(_scaled_down(grey, WORKING))
    window = max(3, round(max(grey.shape) * WIDEST))
    if _is_dark_on_light(grey):
        page = closing(grey, window)
        # Paper reflects more than ink by the same factor in every light.
        return _shown((page - grey) / np.maximum(page, 0.02), page - grey)
    board = -closing(-grey, window)
    return _shown((grey - board) / (board + 0.1), grey - board)


def _is_dark_on_light(grey: Grey) -> bool:
    """Whether what stands out is darker than most of what is around it.

    The median of a large window is the page's brightness, on both sides of a shadow's edge, as strokes are
    less than half of what is there.
    """
    small = _scaled_down(grey, COARSE)
    half = max(small.shape) // 4
    around = np.lib.stride_tricks.sliding_window_view(
        np.pad(small, half, mode="symmetric" if half <= min(small.shape) else "edge"), (2 * half + 1,) * 2
    )
    beyond = small - np.median(around, axis=(2, 3))
    # Cubes: a few pixels that stand out far count for more than many with noise.
    return float((beyond**3).sum()) < 0


def _shown(depth: Grey, contrast: Grey) -> npt.NDArray[np.uint8] | None:
    """The strokes from how much each pixel differs from the page, relative to it and as it is."""
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
    """For each pixel the least of the maxima of all windows that hold it; windows may reach over the edge."""
    padded = np.pad(grey, window - 1, constant_values=-np.inf)
    for axis in (0, 1):
        padded = _slide(padded, window, axis, np.maximum)
    for axis in (0, 1):
        padded = _slide(padded, window, axis, np.minimum)
    return padded


def _slide(values: npt.NDArray[Any], window: int, axis: int, most: Any) -> npt.NDArray[Any]:
    """The extreme of each window along an axis; the result is shorter by window - 1."""
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
    """The mean of 3 x 3 pixels where neighbours differ all over the picture: without a camera's noise."""
    if min(grey.shape) < 3 * DIGIT or np.median(np.abs(np.diff(grey, axis=1))) < 1 / 255:
        return grey
    around = np.pad(grey, 1, mode="edge")
    rows, columns = grey.shape
    pieces = [around[y : y + rows, x : x + columns] for y in range(3) for x in range(3)]
    return np.asarray(np.mean(pieces, axis=0))


def _widened(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """With the pixels around: the soft edge of a stroke belongs to it."""
    for axis in (0, 1):
        grown = mask.copy()
        ahead, behind = np.moveaxis(grown, axis, 0), np.moveaxis(mask, axis, 0)
        ahead[1:] |= behind[:-1]
        ahead[:-1] |= behind[1:]
        mask = grown
    return mask


def _without_dirt(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The spots that are large, and do not run out of the picture if others do not."""
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
    """Numbers from 1 for spots of pixels that touch, at corners too; 0 elsewhere."""
    numbers = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        around = _slide(_slide(np.pad(numbers, 1), 3, 0, np.maximum), 3, 1, np.maximum)
        largest = np.where(mask, around, 0)
        # Follow the chain: a pixel's number is that of a pixel in its spot, which may know a larger one.
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
    # Thin strokes have become faint.
    small = np.minimum(small * (255 / max(small.max(), 1.0)), 255)
    rows, columns = np.indices(small.shape)
    mass = max(small.sum(), 1.0)
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    middle = (SIDE - 1) / 2
    y = int(np.clip(round(middle - (rows * small).sum() / mass), 0, SIDE - small.shape[0]))
    x = int(np.clip(round(middle - (columns * small).sum() / mass), 0, SIDE - small.shape[1]))
    canvas[y : y + small.shape[0], x : x + small.shape[1]] = small.round()
    return canvas
