"""Memory of the device `cuda`: blocks that are kept for the next array, and copies through pinned memory."""

import ctypes
import gc
from typing import Any

import numpy as np
import numpy.typing as npt

from nnkit.device.cuda.driver import OUT_OF_MEMORY, Context
from nnkit.errors import DeviceError

SMALLEST = 512
"""Bytes of the smallest block: the alignment that cuMemAlloc gives, so that every array has it."""

CHUNK = 1 << 20
"""Bytes of one pinned buffer. The host fills one while the GPU empties the others."""
CHUNKS = 8

HostBytes = npt.NDArray[np.uint8]


def size_class(size: int) -> int:
    """The size of the block for so many bytes: a power of two, or 5/4, 6/4, 7/4 of one.

    At most a quarter is wasted, and a network whose last batch is short still finds its blocks again.
    """
    if size <= SMALLEST:
        return SMALLEST
    step = max(SMALLEST, 1 << ((size - 1).bit_length() - 3))
    return -(-size // step) * step


def readable(size: int) -> str:
    """A number of bytes in words."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} bytes"


class Block:
    """Device memory that goes back to its pool when the last array in it is forgotten."""

    __slots__ = ("__weakref__", "address", "pool", "size")

    def __init__(self, pool: "Pool", address: int, size: int):
        self.pool = pool
        self.address = address
        self.size = size

    def __del__(self) -> None:
        # Only notes that it is free: this may run in any thread and at the end of the interpreter.
        self.pool.give(self.address, self.size)


class Pool:
    """Allocates device memory; blocks that are given back wait, by size, for the next array.

    cuMemAlloc and cuMemFree wait for the GPU, a step of training must not. Launches and copies of one device
    run in order, so a block may be used again while the kernel that used it last is still running.
    """

    def __init__(self, context: Context):
        self._context = context
        self._free: dict[int, list[int]] = {}
        self._all: set[int] = set()
        self.streams = 0
        """How many streams besides the default one are open."""

    def take(self, size: int) -> Block:
        """A block of at least that many bytes; raises DeviceError when the GPU has no room."""
        size = size_class(size)
        waiting = self._free.get(size)
        if waiting:
            address = waiting.pop()
            if self.streams:
                # Kernels in two other streams are not ordered with each other. Anything in the default
                # stream waits for all streams, and they for it.
                self._context.call(
                    *("cuMemsetD8Async", address, 0, 1, self._context.stream), doing="reusing memory"
                )
            return Block(self, address, size)
        address = self._allocate(size)
        self._all.add(address)
        return Block(self, address, size)

    def give(self, address: int, size: int) -> None:
        """Keep a block for the next array of its size."""
        self._free.setdefault(size, []).append(address)

    @property
    def cached_bytes(self) -> int:
        """How much is kept and not in use."""
        return sum(size * len(addresses) for size, addresses in self._free.items())

    def trim(self) -> None:
        """Give everything that is not in use back to the driver."""
        while self._free:
            _, addresses = self._free.popitem()
            for address in addresses:
                self._context.call("cuMemFree", address, doing="freeing memory")
                self._all.discard(address)

    def close(self) -> None:
        """Free all blocks, those in use too; errors are ignored, for a broken context frees nothing."""
        self._free.clear()
        while self._all:
            self._context.driver.cuMemFree(self._all.pop())

    def _allocate(self, size: int) -> int:
        doing = f"reserving {readable(size)}"
        self._context.activate()
        allocate = self._context.driver.cuMemAlloc
        result = allocate(size)
        if result[0] == OUT_OF_MEMORY:
            gc.collect()
            self.trim()
            result = allocate(size)
        if result[0] == OUT_OF_MEMORY:
            free, total = self._context.call("cuMemGetInfo", doing="asking for the free memory")
            raise DeviceError(
                f"{self._context.name}: no room for {readable(size)}: CUDA_ERROR_OUT_OF_MEMORY: "
                f"{readable(free)} of {readable(total)} are free; use a smaller batch or network"
            )
        return int(self._context.check(result, doing))


class Staging:
    """Copies between host and device through pinned buffers, in the order of the default stream.

    The GPU copies pinned memory by itself. An upload has left the host's array when it returns, though it
    may not yet have reached the GPU.
    """

    def __init__(self, context: Context):
        self._context = context
        self._next = 0
        call = context.call
        self._base = int(call("cuMemHostAlloc", CHUNK * CHUNKS, 0, doing="reserving pinned memory"))
        self._memory = np.ctypeslib.as_array((ctypes.c_uint8 * (CHUNK * CHUNKS)).from_address(self._base))
        flags = context.driver.CUevent_flags.CU_EVENT_DISABLE_TIMING
        self._events = [call("cuEventCreate", flags, doing="making an event") for _ in range(CHUNKS)]

    def upload(self, host: HostBytes, address: int) -> None:
        """Copy host bytes to the device address."""
        doing = f"copying {readable(host.size)} to the GPU"
        for start in range(0, host.size, CHUNK):
            part = host[start : start + CHUNK]
            slot = self._slot()
            self._wait(slot, doing)
            pinned = self._part(slot, part.size)
            np.copyto(pinned, part)
            self._start("cuMemcpyHtoDAsync", address + start, pinned.ctypes.data, part.size, slot, doing)

    def download(self, address: int, host: HostBytes) -> None:
        """Copy from the device address to host bytes; waits, and raises what a kernel before did wrong."""
        doing = f"copying {readable(host.size)} from the GPU"
        under_way: list[tuple[int, HostBytes]] = []
        for start in range(0, host.size, CHUNK):
            part = host[start : start + CHUNK]
            if len(under_way) == CHUNKS:
                self._finish(*under_way.pop(0), doing)
            slot = self._slot()
            self._wait(slot, doing)
            pinned = self._part(slot, part.size)
            self._start("cuMemcpyDtoHAsync", pinned.ctypes.data, address + start, part.size, slot, doing)
            under_way.append((slot, part))
        for slot, part in under_way:
            self._finish(slot, part, doing)
        # The default stream waits for all others, so every launch before this copy is done.
        self._context.all_done()

    def close(self) -> None:
        """Free the pinned memory; errors are ignored."""
        driver = self._context.driver
        while self._events:
            driver.cuEventDestroy(self._events.pop())
        if self._base:
            driver.cuMemFreeHost(self._base)
            self._base = 0

    def _slot(self) -> int:
        self._next = (self._next + 1) % CHUNKS
        return self._next

    def _part(self, slot: int, size: int) -> HostBytes:
        return self._memory[slot * CHUNK : slot * CHUNK + size]

    def _start(self, function: str, to: int, source: int, size: int, slot: int, doing: str) -> None:
        self._context.call(function, to, source, size, self._context.stream, doing=doing)
        self._context.call("cuEventRecord", self._events[slot], self._context.stream, doing=doing)

    def _wait(self, slot: int, doing: str) -> None:
        """Until the copy that used this buffer last is over."""
        self._context.call("cuEventSynchronize", self._events[slot], doing=doing)

    def _finish(self, slot: int, part: HostBytes, doing: str) -> None:
        self._wait(slot, doing)
        np.copyto(part, self._part(slot, part.size))


def bytes_of(host: npt.NDArray[Any]) -> HostBytes:
    """A contiguous array's memory as bytes, shared."""
    return host.reshape(-1).view(np.uint8)
