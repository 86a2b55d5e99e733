"""What the arrays of all devices share: looking at elements, and the checks of views and rows."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from nnkit.contracts import Array
from nnkit.device.arrays.inputs import element_of, in_words, shape_of
from nnkit.errors import NnkitError, UsageError, reason


def viewed_shape(array: Array, shape: Any) -> tuple[int, ...]:
    """The shape of a view with as many elements; one length may be -1. Raises UsageError for another."""
    if isinstance(shape, tuple | list) and sum(length == -1 for length in shape) == 1:
        rest = math.prod(length for length in shape_of([n for n in shape if n != -1]))
        count = math.prod(array.shape)
        shape = tuple(count // max(rest, 1) if length == -1 else length for length in shape)
    elif isinstance(shape, int | np.integer) and shape == -1:
        shape = (math.prod(array.shape),)
    lengths = shape_of(shape)
    if math.prod(lengths) != math.prod(array.shape):
        raise UsageError(
            f"cannot see an array of shape {array.shape} as {lengths}: the numbers of elements differ"
        )
    return lengths


def viewed_type(array: Array, dtype: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of an array whose bytes are seen as another type; raises UsageError where none fits.

    As in NumPy the last axis becomes longer or shorter.
    """
    element = element_of(dtype)
    shape, size = array.shape, array.dtype.itemsize
    if element.itemsize == size:
        return shape, element
    row = shape[-1] * size if shape else 0
    if not shape or row % element.itemsize:
        raise UsageError(
            f"cannot see an array of shape {shape} {array.dtype} as {element}: "
            + (f"a row of {row} bytes is no number of elements of {element.itemsize}" if shape else "no axis")
        )
    return (*shape[:-1], row // element.itemsize), element


def row_range(array: Array, start: Any, stop: Any) -> tuple[int, int]:
    """The rows from start to stop, counted and clipped as in a slice; raises UsageError."""
    if not array.shape:
        raise UsageError("an array without axes has no rows")
    try:
        first, end, _ = slice(start, stop).indices(array.shape[0])
    except (TypeError, ValueError):
        raise UsageError(
            f"rows {in_words(start)} to {in_words(stop)}: give two whole numbers, as in a slice"
        ) from None
    return first, max(first, end)


class Lookable:
    """An array that can be looked at: its length, its elements as NumPy's copies that nobody can write to.

    Nothing is written through an index: it would change the copy, and not what the device holds.
    """

    __slots__ = ()

    def __len__(self: Any) -> int:
        if not self.shape:
            raise UsageError("an array without axes has no length")
        return int(self.shape[0])

    def __bool__(self: Any) -> bool:
        if math.prod(self.shape) != 1:
            raise UsageError(
                f"an array of shape {self.shape} is neither true nor false: ask download().any()"
            )
        return bool(self.download().reshape(-1)[0])

    def __getitem__(self: Any, key: Any) -> Any:
        """Elements, as NumPy indexes them, copied to the host; UsageError for an index that it refuses."""
        try:
            first = key[0] if isinstance(key, tuple) and key else key
            if self.shape and isinstance(first, slice) and first.step in (None, 1):
                # No more than these rows need to come from the device.
                found = self.rows(*row_range(self, first.start, first.stop)).download()
                found = found[(slice(None), *key[1:])] if isinstance(key, tuple) else found
            elif self.shape and isinstance(first, int | np.integer) and not isinstance(first, bool):
                at = int(first) + (self.shape[0] if first < 0 else 0)
                if not 0 <= at < self.shape[0]:
                    raise IndexError(f"there are {self.shape[0]} along the first axis")
                found = self.rows(at, at + 1).download()
                found = found[(0, *key[1:])] if isinstance(key, tuple) else found[0]
            else:
                found = self.download()[key]
        except NnkitError:
            raise
        except Exception as error:
            raise UsageError(
                f"index {in_words(key)} of an array of shape {self.shape}: {reason(error)}"
            ) from None
        if isinstance(found, np.ndarray):
            found.flags.writeable = False
        return found

    def __setitem__(self: Any, key: Any, value: Any) -> None:
        raise UsageError(
            "an array of a device is not written through an index: use write(values), "
            "or rows(start, stop).write(values)"
        )

    def __iter__(self: Any) -> Iterator[Any]:
        len(self)
        values = self.download()
        values.flags.writeable = False
        return iter(values)

    def __contains__(self: Any, value: Any) -> bool:
        try:
            return value in self.download()
        except Exception as error:
            raise UsageError(f"{in_words(value)} cannot be looked for: {reason(error)}") from None
