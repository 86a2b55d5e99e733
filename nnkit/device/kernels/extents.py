"""How large a launch may be: grid, block and shared memory, checked before the device sees them."""

from dataclasses import dataclass
from operator import index
from typing import Any

import numpy as np

from nnkit.contracts import Dimensions
from nnkit.errors import LaunchError

Extent = tuple[int, int, int]
"""Blocks of a grid or threads of a block along x, y and z."""

AXES = "xyz"
ONES = (1, 1, 1)


@dataclass(frozen=True)
class Limits:
    """The largest launch of one kernel: blocks, threads, and bytes of shared memory that a launch may add.

    The defaults are those of every CUDA device since compute capability 3.0 (CUDA programming guide, table
    of technical specifications), and the shared memory that needs no opting in.
    """

    threads: int = 1024
    block: Extent = (1024, 1024, 64)
    grid: Extent = (2**31 - 1, 65535, 65535)
    shared_bytes: int = 48 * 1024
    required: Extent | None = None
    """The only block that the kernel was compiled for, if it was for one (.reqntid)."""


def check_extents(
    kernel: str, grid: Dimensions, block: Dimensions, shared_bytes: int, limits: Limits
) -> tuple[Extent, Extent]:
    """Grid and block with three axes each; raises LaunchError that names the kernel and what is too large."""
    blocks = _extent(kernel, "grid", grid, limits.grid)
    threads = x, y, z = _extent(kernel, "block", block, limits.block)
    if limits.required not in (None, threads):
        raise LaunchError(
            f"kernel {kernel}: block is {threads}, this kernel was compiled for {limits.required} alone "
            "(.reqntid); launch it with that"
        )
    if x * y * z > limits.threads:
        raise LaunchError(
            f"kernel {kernel}: block {threads} has {x * y * z} threads, the most for this kernel is "
            f"{limits.threads}; make it smaller"
        )
    try:
        size = index(shared_bytes)
    except TypeError:
        raise LaunchError(
            f"kernel {kernel}: shared_bytes must be a whole number, got {shared_bytes!r}"
        ) from None
    if not 0 <= size <= limits.shared_bytes:
        raise LaunchError(
            f"kernel {kernel}: shared_bytes is {size}, a launch of this kernel can have 0 to "
            f"{limits.shared_bytes} bytes; use less shared memory"
        )
    return blocks, threads


def _axes(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) and value.ndim == 1 else (value,)


def _extent(kernel: str, what: str, value: Any, largest: Extent) -> Extent:
    try:
        axes = value if isinstance(value, (tuple, list)) else _axes(value)
        x, y, z = map(index, (*axes, *ONES[len(axes) :]) if axes else ())
    except (TypeError, ValueError):
        raise LaunchError(
            f"kernel {kernel}: {what} must be one to three whole numbers, got {value!r}"
        ) from None
    if 1 <= x <= largest[0] and 1 <= y <= largest[1] and 1 <= z <= largest[2]:
        return x, y, z
    wrong = next(axis for axis, size in enumerate((x, y, z)) if not 1 <= size <= largest[axis])
    advice = "; leave out a launch that has nothing to do" if (x, y, z)[wrong] == 0 else ""
    raise LaunchError(
        f"kernel {kernel}: {what} is {(x, y, z)[wrong]} along {AXES[wrong]}, it can be 1 to "
        f"{largest[wrong]}{advice}"
    )
