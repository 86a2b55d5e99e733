"""How many examples the random tests of the PTX machine try: NNKIT_STRESS=N for N times as many."""

import os
from functools import cache

from nnkit.device.virtual import VirtualDevice

SETTINGS = ((32, 1), (16, 1), (16, 2), (1, 1))
"""Lanes of a vector, and threads: all must agree to the bit."""


def examples(count: int) -> int:
    """That many, or a multiple of it."""
    return count * int(os.environ.get("NNKIT_STRESS", "1"))


@cache
def device(width: int, threads: int = 1) -> VirtualDevice:
    """One device of a kind for all tests."""
    return VirtualDevice(width=width, threads=threads)
