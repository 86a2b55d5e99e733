"""The parameters that training starts from.

Each layer has a generator of its own, seeded by (seed, layer). Every rank draws the whole matrices and then
takes its part: so all strategies and numbers of ranks start from the same network.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Parameters = list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]
"""Weight (out, in) and bias (out,) of every layer, input side first."""


def initial_parameters(
    sizes: Sequence[int], activation: str, seed: int, dtype: npt.DTypeLike = np.float32
) -> Parameters:
    """Normal weights of variance 1 / fan-in (2 / fan-in for relu), which keeps signals' variance; biases 0.

    Sources: LeCun, Bottou, Orr and Mueller, Efficient BackProp (1998), 4.6; He et al., arXiv 1502.01852.
    """
    parameters: Parameters = []
    last = len(sizes) - 2
    for layer, (inputs, outputs) in enumerate(pairwise(sizes)):
        gain = 2.0 if activation == "relu" and layer < last else 1.0
        weight = np.random.default_rng((seed, layer)).standard_normal((outputs, inputs))
        weight *= math.sqrt(gain / inputs)
        parameters.append((weight.astype(dtype), np.zeros(outputs, dtype)))
    return parameters
