"""The shards of a network that ranks hold: cutting them out, assembling them, comparing them."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from nnkit.contracts import Strategy
from nnkit.nn.initialise import Parameters

Rectangle = tuple[int, int, int, int]
"""Part of a weight matrix: first row, last row + 1, first column, last column + 1."""


@dataclass(frozen=True)
class Shard:
    """A rank's part of one layer: weight (rows, columns) and bias (rows,)."""

    place: Rectangle
    weight: npt.NDArray[Any]
    bias: npt.NDArray[Any]


def places(strategy: Strategy, sizes: Sequence[int]) -> list[Rectangle]:
    """The rectangle of every layer's weight matrix that this rank holds."""
    found = []
    for layer, (inputs, outputs) in enumerate(pairwise(sizes)):
        rows = strategy.rows(layer, outputs).indices(outputs)
        columns = strategy.columns(layer, inputs).indices(inputs)
        found.append((rows[0], rows[1], columns[0], columns[1]))
    return found


def cut(places: Sequence[Rectangle], own: Parameters) -> list[Shard]:
    """A rank's parameters as shards, one for each layer."""
    return [Shard(place, *pair) for place, pair in zip(places, own, strict=True)]


def cover(sizes: Sequence[int], held: Iterable[Sequence[Rectangle]]) -> bool:
    """Whether ranks that hold these rectangles have the whole network together.

    Strategies cut a layer so that two ranks' rectangles are either equal or disjoint, unless one rank has all
    of it. So the areas of the distinct ones add up to that of the layer exactly if nothing is missing.
    """
    every = list(held)
    for layer, (inputs, outputs) in enumerate(pairwise(sizes)):
        distinct = {places[layer] for places in every}
        if (0, outputs, 0, inputs) in distinct:
            continue
        area = sum((r1 - r0) * (c1 - c0) for r0, r1, c0, c1 in distinct)
        if area != inputs * outputs:
            return False
    return True


def assemble(sizes: Sequence[int], parts: Iterable[Sequence[Shard]], dtype: npt.DTypeLike) -> Parameters:
    """The whole network in `dtype`. The shards must cover it, see `cover`."""
    whole = [
        (np.empty((outputs, inputs), dtype), np.empty(outputs, dtype)) for inputs, outputs in pairwise(sizes)
    ]
    for part in parts:
        for (weight, bias), each in zip(whole, part, strict=True):
            r0, r1, c0, c1 = each.place
            weight[r0:r1, c0:c1] = each.weight
            bias[r0:r1] = each.bias
    return whole


Digests = dict[tuple[int, str, tuple[int, ...]], str]
"""Hashes of a rank's parameters: (layer, "weight" or "bias", rows and columns) -> hash."""


def digests(places: Sequence[Rectangle], own: Parameters) -> Digests:
    """The hashes of this rank's parameters, to be compared with other ranks'."""
    found: Digests = {}
    for layer, ((r0, r1, c0, c1), (weight, bias)) in enumerate(zip(places, own, strict=True)):
        found[layer, "weight", (r0, r1, c0, c1)] = _digest(weight)
        found[layer, "bias", (r0, r1)] = _digest(bias)
    return found


def _digest(array: npt.NDArray[Any]) -> str:
    return hashlib.blake2b(array.tobytes(), digest_size=16).hexdigest()


def difference(found: Sequence[Digests]) -> str:
    """The first parameters that two ranks hold and that differ, in words; "" if all agree."""
    first: dict[tuple[int, str, tuple[int, ...]], tuple[int, str]] = {}
    for rank, held in enumerate(found):
        for key, digest in held.items():
            earlier, expected = first.setdefault(key, (rank, digest))
            if digest != expected:
                return f"the {key[1]} of layer {key[0]} differs between rank {earlier} and rank {rank}"
    return ""
