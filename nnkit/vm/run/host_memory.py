"""Where all memory that kernels touch comes from: one function, so that it can be had elsewhere.

Tests put pages around it that nobody may touch.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


class Take(Protocol):
    """A way to get memory."""

    def __call__(self, size: int, alignment: int, cleared: bool = False) -> Bytes:
        """`size` bytes, zero if `cleared`, at a multiple of `alignment`. Raises MemoryError for none.

        A unit of `alignment` follows that belongs to nobody: neighbours are never adjacent, those of two
        threads share no cache line, and empty ones have an address of their own.
        """


def plain(size: int, alignment: int, cleared: bool = False) -> Bytes:
    """From NumPy: what is large and cleared takes no room until it is used."""
    try:
        buffer: Bytes = (np.zeros if cleared else np.empty)(size + 2 * alignment, np.uint8)
    except (ValueError, OverflowError) as error:
        # More than an address can tell.
        raise MemoryError(f"cannot allocate {size} bytes") from error
    skipped = -buffer.ctypes.data % alignment
    return buffer[skipped : skipped + size]


take: Take = plain
"""Whoever embeds the machine may set another."""
