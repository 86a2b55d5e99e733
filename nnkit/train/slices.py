"""The parts of a network that ranks hold: cutting them out, putting them together, comparing them."""

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
"""First and last + 1 row, first and last + 1 column of a weight matrix."""


@dataclass(frozen=True)
class Slice:
    """A rank's part of one layer: weight (rows, columns) and bias (rows)."""

    place: Rectangle
    weight: npt.NDArray[Any]
    bias: npt.NDArray[Any]


def places(strategy: Strategy, sizes: Sequence[int]) -> list[Rectangle]:
    """What this rank holds of every layer."""
    found = []
    for layer, (inputs, outputs) in enumerate(pairwise(sizes)):
        rows = strategy.rows(layer, outputs).indices(outputs)
        columns = strategy.columns(layer, inputs).indices(inputs)
        found.append((rows[0], rows[1], columns[0], columns[1]))
    return found


def cut(places: Sequence[Rectangle], own: Parameters) -> list[Slice]:
    """A rank's parameters with their places."""
    return [Slice(place, *pair) for place, pair in zip(places, own, strict=True)]


def cover(sizes: Sequence[int], held: Iterable[Sequence[Rectangle]]) -> bool:
    """Whether those who hold these places have the whole network between them.

    Somebody has all of a layer, or places are equal or disjoint, so that areas tell.
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


def assemble(sizes: Sequence[int], parts: Iterable[Sequence[Slice]], dtype: npt.DTypeLike) -> Parameters:
    """The whole network; the parts must cover it."""
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
"""A hash of everything a rank holds, by layer, "weight" or "bias", and place."""


def digests(places: Sequence[Rectangle], own: Parameters) -> Digests:
    """What this rank holds, ready to be compared with others'."""
    found: Digests = {}
    for layer, ((r0, r1, c0, c1), (weight, bias)) in enumerate(zip(places, own, strict=True)):
        found[layer, "weight", (r0, r1, c0, c1)] = _digest(weight)
        found[layer, "bias", (r0, r1)] = _digest(bias)
    return found


def _digest(array: npt.NDArray[Any]) -> str:
    return hashlib.blake2b(array.tobytes(), digest_size=16).hexdigest()


def difference(found: Sequence[Digests]) -> str:
    """What ranks share and disagree about, in words; "" if they agree on everything."""
    first: dict[tuple[int, str, tuple[int, ...]], tuple[int, str]] = {}
    for rank, held in enumerate(found):
        for key, digest in held.items():
            earlier, expected = first.setdefault(key, (rank, digest))
            if digest != expected:
                return f"the {key[1]} of layer {key[0]} differs between rank {earlier} and rank {rank}"
    return ""
