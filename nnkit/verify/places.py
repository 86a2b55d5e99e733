"""Describes in words where in a matrix components are wrong: which rows, which columns."""

from typing import Any

import numpy as np
import numpy.typing as npt


def describe_places(broken: npt.NDArray[np.bool_]) -> str:
    """The end of a sentence "... components break their bound", as ", only row 64, the last".

    "" if there is no pattern.

    `broken` (M, N) has at least one True.
    """
    rows, columns = np.flatnonzero(broken.any(axis=1)), np.flatnonzero(broken.any(axis=0))
    if broken.all() or not broken[np.ix_(rows, columns)].all():
        return "" if broken.all() else _bounding(rows, columns, broken.shape)
    words = [
        _range(name, found, length)
        for name, found, length in zip(("row", "column"), (rows, columns), broken.shape, strict=True)
        if len(found) < length
    ]
    return f", only {' in '.join(filter(None, words))}" if all(words) else ""


def _bounding(rows: npt.NDArray[Any], columns: npt.NDArray[Any], shape: tuple[int, ...]) -> str:
    """For places that form no rectangle: the rows or columns that contain them, if those are few."""
    for name, found, length in (("row", rows, shape[0]), ("column", columns, shape[1])):
        if 2 * len(found) <= length and (words := _range(name, found, length)):
            return f", only in {words}"
    return ""


def _range(name: str, found: npt.NDArray[Any], length: int) -> str:
    """ "row 64, the last", "rows 3 to 5"; "" if the numbers are not consecutive."""
    first, last = int(found[0]), int(found[-1])
    if last - first + 1 != len(found):
        return ""
    words = f"{name} {first}" if first == last else f"{name}s {first} to {last}"
    if first == last and first in (0, length - 1):
        return f"{words}, the {'first' if first == 0 else 'last'}"
    return f"{words}, the last {len(found)}" if last == length - 1 else words
