"""A kernel's code for one kind of launch, and the memory that threads run it with."""

import ctypes
from dataclasses import dataclass

import numpy as np

from nnkit.vm.build.compile import Native
from nnkit.vm.build.native import load_native
from nnkit.vm.run import host_memory
from nnkit.vm.text.layout import Worker

_RUN = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)

CACHE_LINE = 64


@dataclass
class Arena:
    """One thread's memory for one kind of launch; never that of two threads at once."""

    record: "ctypes.Array[ctypes.c_int64]"
    pieces: dict[Worker, host_memory.Bytes]
    shared_bytes: int
    address: int


class Variant:
    """A kernel's code for one kind of launch, with as many arenas as threads have run it at once."""

    def __init__(self, native: Native):
        self.native = native
        self.library, self.address = load_native(native.code)
        self.run = _RUN(self.address)
        self.seconds_a_block = 0.0
        self._free: list[Arena] = []

    def take(self, shared_bytes: int, fuel: int) -> Arena:
        """An arena that nobody uses, large enough for that much shared memory."""
        try:
            arena = self._free.pop()
        except IndexError:
            arena = self._make(shared_bytes)
        if arena.shared_bytes < shared_bytes:
            arena = self._make(shared_bytes)
        arena.pieces[Worker.SITES].fill(0)
        if self.native.counters:
            arena.pieces[Worker.COUNTERS].fill(0)
        arena.record[Worker.FUEL] = fuel
        arena.record[Worker.FAULT] = 0
        return arena

    def give(self, arenas: list[Arena]) -> None:
        """Back to the others; in reverse, so that the next launch meets them in the same order."""
        self._free.extend(reversed(arenas))

    def counts(self, arenas: list[Arena]) -> dict[str, int]:
        """What a launch has counted, over all that took part."""
        tables = [arena.pieces[Worker.COUNTERS].view(np.int64).tolist() for arena in arenas]
        return dict(zip(self.native.counters, map(sum, zip(*tables, strict=True)), strict=False))

    def _make(self, shared_bytes: int) -> Arena:
        native = self.native
        sizes = {
            Worker.FRAMES: native.frame_bytes * native.strands,
            Worker.SHARED: shared_bytes,
            Worker.LOCAL: native.local_stride * native.vectors * native.width,
            Worker.SITES: 16 * max(native.caches, 1),
            Worker.ADDRESSES: 8 * native.width,
            Worker.RESUME: 4 * native.strands,
            Worker.ALIVE: 8 * native.strands,
            Worker.BARRIER: 8 * native.strands,
            Worker.COUNTERS: 8 * max(len(native.counters), 1),
        }
        pieces = {field: host_memory.take(size, CACHE_LINE, cleared=True) for field, size in sizes.items()}
        record = (ctypes.c_int64 * int(Worker.WORDS))()
        for field, piece in pieces.items():
            record[field] = piece.ctypes.data
        return Arena(record, pieces, shared_bytes, ctypes.addressof(record))
