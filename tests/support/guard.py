"""Memory between guard pages: a kernel that accesses anything outside its memory ends the process.

Every piece of memory that kernels access (arrays, variables, parameters, shared and local memory, and the
machine's own tables) stands alone in a wide reservation without access rights. A piece ends exactly where
guard pages begin, or begins exactly where they end. Tests that run with both find every byte too far.
"""

import ctypes
import mmap
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from nnkit.vm.run import host_memory, launch
from nnkit.vm.text.layout import Context

PAGE = mmap.PAGESIZE
ROOM = 1 << 36
"""Bytes of guard pages on either side: as far as a 32-bit index of 16-byte elements can reach."""
WHERE = ("end", "start")

_NO_ACCESS, _NO_RESERVE = 0, 0x4000
_FAILED = ctypes.c_void_p(-1).value
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class Guarded:
    """`nnkit.vm.run.host_memory.take` with guard pages around each piece."""

    def __init__(self, where: str, room: int, unit: int):
        assert where in WHERE
        self.where = where
        self.room = room
        self.unit = unit

    def __call__(self, size: int, alignment: int, cleared: bool = False) -> host_memory.Bytes:
        """Zeros. A piece that ends where guard pages begin is aligned to `unit` alone."""
        inner = max(-(-size // PAGE), 1) * PAGE
        total = inner + 2 * self.room
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
        base = _libc.mmap(None, total, _NO_ACCESS, flags, -1, 0)
        if base in (None, _FAILED):
            raise MemoryError(f"cannot reserve {total} bytes")
        first = base + self.room
        if _libc.mprotect(first, inner, mmap.PROT_READ | mmap.PROT_WRITE):
            raise MemoryError(f"cannot open {inner} bytes")
        start = first if self.where == "start" else (first + inner - size) // self.unit * self.unit
        # The array and its views keep `piece` alive; then its pages are unmapped.
        piece = (ctypes.c_uint8 * size).from_address(start)
        # Not at exit: threads may still use their memory then.
        weakref.finalize(piece, _libc.munmap, base, total).atexit = False
        return np.frombuffer(memoryview(piece), np.uint8)


def forbid_writing(start: int, size: int) -> None:
    """Make the pages of a piece read-only: nothing else lies in them."""
    first = start // PAGE * PAGE
    assert not _libc.mprotect(first, start + size - first, mmap.PROT_READ)


@contextmanager
def guarded(where: str, room: int = ROOM, unit: int = 1) -> Iterator[Guarded]:
    """While it lasts, machines and what they load and launch live in guarded memory.

    `room` forbidden bytes lie on either side of a piece; pieces are aligned to `unit`, at the cost of as many
    bytes behind them that are not guarded.
    """
    guard = Guarded(where, room, unit)
    plain, begin = host_memory.take, launch.Run.__init__
    parameters: weakref.WeakKeyDictionary[launch.Run, host_memory.Bytes] = weakref.WeakKeyDictionary()

    def begin_guarded(self: launch.Run, *arguments: Any, **named: Any) -> None:
        begin(self, *arguments, **named)
        known = bytes(self.parameters)[: self.kernel.traits.parameter_bytes]
        parameters[self] = guard(len(known), 1)
        parameters[self][:] = np.frombuffer(known, np.uint8)
        self.context[Context.PARAMETERS] = parameters[self].ctypes.data

    host_memory.take = guard
    launch.Run.__init__ = begin_guarded  # type: ignore[method-assign]
    try:
        yield guard
    finally:
        host_memory.take = plain
        launch.Run.__init__ = begin  # type: ignore[method-assign]
