"""Blocks of threads as vectors of lanes, and what that says of the special registers."""

import math
from dataclasses import dataclass

from nnkit.vm.analysis import shapes
from nnkit.vm.analysis.options import Options
from nnkit.vm.analysis.shapes import UNIFORM, VARYING, Shape

SMALL_GRID = 65535
"""Grids up to this extent in x are compiled with that knowledge: indices then provably do not wrap."""


@dataclass(frozen=True)
class Launch:
    """What code is specialised for: the block's extents, a small grid or not, and how it is made.

    Raises ValueError for options that leave the width open.
    """

    block: tuple[int, int, int]
    small_grid: bool
    options: Options

    def __post_init__(self) -> None:
        if self.options.width is None:
            raise ValueError("code for vectors of no width")

    @property
    def width(self) -> int:
        """Lanes of a vector."""
        assert self.options.width is not None
        return self.options.width

    @property
    def threads(self) -> int:
        """Threads of a block."""
        x, y, z = self.block
        return x * y * z

    @property
    def vectors(self) -> int:
        """How many vectors of lanes a block needs."""
        return -(-self.threads // self.width)


def special(name: str, launch: Launch) -> Shape:
    """The shape of a special register."""
    x, y, z = launch.block
    width = launch.width
    if name.startswith("%tid"):
        return thread_index(name[-1], launch)
    if name.startswith("%ntid"):
        return shapes.constant({"x": x, "y": y, "z": z}[name[-1]], 32)
    if name == "%ctaid.x":
        return Shape("uniform", (), 0, SMALL_GRID - 1 if launch.small_grid else (1 << 31) - 1, 1)
    if name in ("%ctaid.y", "%ctaid.z"):
        return Shape("uniform", (), 0, 65534, 1)
    if name == "%laneid":
        lanes = tuple(lane % 32 for lane in range(width))
        return shapes.made(32, 0, 32 - min(width, 32), min(width, 32), lanes)
    if name.startswith("%lanemask"):
        return VARYING
    if name == "%warpid" and width > 32:
        return shapes.made(32, 0, 31, 1, tuple(lane // 32 for lane in range(width)))
    if name == "%warpid":
        return Shape("uniform", (), 0, 31, 1)
    return UNIFORM


def thread_index(axis: str, launch: Launch) -> Shape:
    """%tid of one axis: linear thread number t = vector * width + lane, x fastest."""
    x, y, z = launch.block
    width, last = launch.width, launch.threads - 1
    first = shapes.made(32, 0, (launch.vectors - 1) * width, width, tuple(range(width)))
    if launch.vectors == 1:
        first = shapes.made(32, 0, 0, 0, tuple(range(width)))
    if y == 1 and z == 1:
        return first if axis == "x" else shapes.constant(0, 32)
    starts = [vector * width for vector in range(launch.vectors)]

    def coordinate(thread: int) -> int:
        thread = min(thread, last)
        return {"x": thread % x, "y": thread // x % y, "z": thread // (x * y)}[axis]

    bases = [coordinate(start) for start in starts]
    patterns = {
        tuple(coordinate(start + lane) - base for lane in range(width) if start + lane <= last)
        for start, base in zip(starts, bases, strict=True)
    }
    longest = max(patterns, key=len)
    # The last vector may be shorter; lanes beyond the block may hold anything.
    if any(longest[: len(pattern)] != pattern for pattern in patterns):
        return VARYING
    pattern = longest + (0,) * (width - len(longest))
    multiple = 0
    for base in bases:
        multiple = math.gcd(multiple, base)
    return shapes.made(32, min(bases), max(bases), multiple, pattern)
