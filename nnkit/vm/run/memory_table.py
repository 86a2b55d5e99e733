"""The device memory of the virtual machine: allocations on the host, and the table for checking accesses."""

import bisect
import collections
import ctypes
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nnkit.vm.run import host_memory

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


@dataclass(frozen=True)
class Snapshot:
    """The table at one moment, as the generated code reads it; keeps all memory in it alive."""

    rows: npt.NDArray[np.int64]
    """(start, size, flags) of every allocation, sorted; never empty."""
    allocations: tuple[Allocation, ...]


class MemoryTable:
    """All allocations, sorted by address; any number of threads may use it.

    `free` is called by finalisers, which run at any moment, even amid another method of this class in the
    same thread: so it only notes what is to be done, and whoever holds the lock next does it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._starts: list[int] = []
        self._allocations: list[Allocation] = []
        self._adopted: list[Allocation] = []
        self._freed: list[Allocation] = []
        self._to_free: collections.deque[Allocation] = collections.deque()
        self._snapshot: Snapshot | None = None

    def allocate(self, size: int, label: str, flags: int = 0) -> Allocation:
        """Uninitialised bytes. Raises MemoryError where the host has none."""
        if size < 0:
            raise ValueError(f"cannot allocate {size} bytes")
        owner = host_memory.take(size, ALIGNMENT)
        start = owner.ctypes.data
        made = Allocation(start, size, label, flags, owner)
        with self._lock:
            place = bisect.bisect(self._starts, start)
            self._starts.insert(place, start)
            self._allocations.insert(place, made)
            self._freed = [old for old in self._freed if old.end <= start or old.start >= made.end]
            self._snapshot = None
            self._drain()
        return made

    def adopt(self, owner: npt.NDArray[np.uint8], label: str, flags: int = 0) -> Allocation:
        """Memory that somebody else reserved, until it is freed here; it may overlap others."""
        made = Allocation(owner.ctypes.data, owner.size, label, flags, owner)
        with self._lock:
            self._adopted.append(made)
            self._snapshot = None
        return made

    def free(self, allocation: Allocation) -> None:
        """Take it from the table; a second call does nothing."""
        self._to_free.append(allocation)
        if self._lock.acquire(blocking=False):
            try:
                self._drain()
            finally:
                self._lock.release()

    def _drain(self) -> None:
        """Take what was freed from the table; the lock is held."""
        while self._to_free:
            allocation = self._to_free.popleft()
            if any(known is allocation for known in self._adopted):
                self._adopted = [known for known in self._adopted if known is not allocation]
                self._snapshot = None
                continue
            place = bisect.bisect_left(self._starts, allocation.start)
            if place < len(self._starts) and self._allocations[place] is allocation:
                del self._starts[place], self._allocations[place]
                # The bytes themselves go back to the host now: only the place is remembered.
                forgotten = Allocation(
                    allocation.start, allocation.size, allocation.label, 0, np.empty(0, np.uint8)
                )
                self._freed = [*self._freed[1 - REMEMBERED :], forgotten]
                self._snapshot = None

    def snapshot(self) -> Snapshot:
        """The table as it is now."""
        found = self._snapshot
        if found is not None and not self._to_free:
            return found
        with self._lock:
            self._drain()
            if self._snapshot is None:
                allocations = _merged(self._allocations, self._adopted)
                rows: list[Any] = [(a.start, a.size, a.flags) for a in allocations] or [(0, 0, 0)]
                self._snapshot = Snapshot(np.array(rows, np.int64), tuple(allocations))
            return self._snapshot

    def holding(self, address: int, size: int) -> Allocation | None:
        """The allocation that holds all of these bytes."""
        known = self.snapshot().allocations
        place = bisect.bisect(known, address, key=lambda a: a.start) - 1
        if place >= 0 and address + size <= known[place].end:
            return known[place]
        return None

    def nearest(self, address: int, size: int) -> str:
        """In words: which allocation, living or freed, an address belongs to or is close to."""
        words = self._living(address, size)
        for old in reversed(self._freed):
            if old.start <= address < max(old.end, old.start + 1):
                # Both: what is wrong may be an index as well as a pointer.
                return f"it lies in {old.label} of {old.size} bytes, which was freed; {words}"
        return words

    def _living(self, address: int, size: int) -> str:
        best, distance = None, 1 << 64
        for known in self.snapshot().allocations:
            away = known.start - address if address < known.start else max(address - known.end, 0)
            if away < distance:
                best, distance = known, away
        if best is None:
            return "there is no allocation"
        if address < best.start:
            return f"it lies {distance} bytes before {best.label} of {best.size} bytes"
        if address >= best.end:
            return f"it lies {distance} bytes behind the end of {best.label} of {best.size} bytes"
        return (
            f"it reaches {address + size - best.end} bytes over the end of {best.label} of {best.size} bytes"
        )


def _merged(own: list[Allocation], adopted: list[Allocation]) -> list[Allocation]:
    """All of them, sorted, none overlapping another: several views of one memory count as one.

    What lies in an allocation of the table's own is known already. Of overlapping ones that may be written
    all may.
    """
    if not adopted:
        return own
    apart: list[Allocation] = []
    for new in sorted(adopted, key=lambda each: (each.start, -each.size)):
        last = apart[-1] if apart else None
        if last is None or new.start >= last.end:
            apart.append(new)
            continue
        size = max(last.end, new.end) - last.start
        longer = last if last.size == size else _spanning(last, new)
        apart[-1] = Allocation(last.start, size, longer.label, last.flags & new.flags, longer.owner)
    starts = [allocation.start for allocation in own]
    result = list(own)
    for new in apart:
        place = bisect.bisect(starts, new.start)
        before = place and own[place - 1].end > new.start
        behind = place < len(own) and own[place].start < new.end
        if new.size and not before and not behind:
            result.append(new)
    return sorted(result, key=lambda each: each.start)


def _spanning(first: Allocation, second: Allocation) -> Allocation:
    """One allocation over two that overlap; they keep each other's memory alive."""
    size = second.end - first.start
    memory = (ctypes.c_uint8 * size).from_address(first.start)
    memory.owners = (first.owner, second.owner)  # type: ignore[attr-defined]
    return Allocation(first.start, size, first.label, first.flags, np.ctypeslib.as_array(memory))
