"""The device memory of the virtual machine: allocations on the host, and the table that every access is checked by."""

import bisect
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

ALIGNMENT = 256
"""Every allocation begins at a multiple of this, as cudaMalloc's do."""

REMEMBERED = 64
"""How many freed allocations are remembered for messages."""

READ_ONLY = 1


@dataclass(frozen=True)
class Allocation:
    """Bytes on the host that kernels may access."""

    start: int
    size: int
    label: str
    flags: int
    owner: npt.NDArray[np.uint8]

    @property
    def end(self) -> int:
        """The address behind the last byte."""
        return self.start + self.size


class MemoryTable:
    """All allocations, sorted by address."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._allocations: list[Allocation] = []
        self._freed: list[Allocation] = []
        self._rows: npt.NDArray[np.int64] | None = None

    def allocate(self, size: int, label: str, flags: int = 0) -> Allocation:
        """Uninitialised bytes. Raises MemoryError where the host has none."""
        if size < 0:
            raise ValueError(f"cannot allocate {size} bytes")
        # One byte more than asked for: neighbours are never adjacent, and an empty one has an address.
        buffer = np.empty(size + ALIGNMENT + 1, np.uint8)
        first = buffer.ctypes.data
        start = -(-first // ALIGNMENT) * ALIGNMENT
        made = Allocation(start, size, label, flags, buffer[start - first : start - first + size])
        place = bisect.bisect(self._starts, start)
        self._starts.insert(place, start)
        self._allocations.insert(place, made)
        self._freed = [old for old in self._freed if old.end <= start or old.start >= made.end]
        self._rows = None
        return made

    def free(self, allocation: Allocation) -> None:
        """Take it from the table; a second call does nothing."""
        place = bisect.bisect_left(self._starts, allocation.start)
        if place < len(self._starts) and self._allocations[place] is allocation:
            del self._starts[place], self._allocations[place]
            # The bytes themselves go back to the host now: only the place is remembered.
            forgotten = Allocation(
                allocation.start, allocation.size, allocation.label, 0, np.empty(0, np.uint8)
            )
            self._freed = [*self._freed[-REMEMBERED:], forgotten]
            self._rows = None

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """(start, size, flags) of every allocation, as the generated code reads them."""
        if self._rows is None:
            rows: list[Any] = [(a.start, a.size, a.flags) for a in self._allocations] or [(0, 0, 0)]
            self._rows = np.array(rows, np.int64)
        return self._rows

    def __len__(self) -> int:
        return len(self._allocations)

    def holding(self, address: int, size: int) -> Allocation | None:
        """The allocation that holds all of these bytes."""
        place = bisect.bisect(self._starts, address) - 1
        if place >= 0:
            found = self._allocations[place]
            if found.start <= address and address + size <= found.end:
                return found
        return None

    def nearest(self, address: int, size: int) -> str:
        """In words: which allocation, living or freed, an address belongs to or is close to."""
        for old in reversed(self._freed):
            if old.start <= address < max(old.end, old.start + 1):
                return f"it lies in {old.label} of {old.size} bytes, which was freed"
        best, distance = None, 1 << 63
        for known in self._allocations:
            away = known.start - address if address < known.start else max(address + size - known.end, 0)
            if away < distance:
                best, distance = known, away
        if best is None:
            return "there is no allocation"
        if address < best.start:
            return f"it lies {best.start - address} bytes before {best.label} of {best.size} bytes"
        if address >= best.end:
            return f"it lies {address - best.end} bytes behind the end of {best.label} of {best.size} bytes"
        return (
            f"it reaches {address + size - best.end} bytes over the end of {best.label} of {best.size} bytes"
        )
