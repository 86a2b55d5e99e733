"""Memory between pages that nobody may touch: whatever a kernel reaches outside of it ends the process.

Every piece of memory that kernels touch (arrays, variables, parameters, shared and local memory, and what the
machine keeps for itself) stands alone in a wide reservation without access. A piece ends exactly where the
forbidden pages begin, or begins exactly where they end: one run of each kind leaves no byte on either side.
"""

import ctypes
import mmap
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from nnkit.vm import host_memory, launch
from nnkit.vm.layout import Context

PAGE = mmap.PAGESIZE
ROOM = 1 << 36
"""Forbidden bytes on either side: as far as a 32-bit index of elements of 16 bytes reaches when it wraps."""
_PRIVATE_UNRESERVED = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000
_FAILED = ctypes.c_void_p(-1).value
WHERE = ("end", "start")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class Guarded:
    """`nnkit.vm.host_memory.take` with forbidden pages around each piece."""

    def __init__(self, where: str):
        assert where in WHERE
        self.where = where
        self.taken = 0

    def __call__(self, size: int, alignment: int, cleared: bool = False) -> host_memory.Bytes:
        """Zeros; at the end of its page as far as the natural alignment of its size allows (see `slack`)."""
        inner = max(-(-size // PAGE), 1) * PAGE
        total = inner + 2 * ROOM
        base = _libc.mmap(None, total, mmap.PROT_NONE if hasattr(mmap, "PROT_NONE") else 0, *_ANYWHERE)
        if base in (None, _FAILED):
            raise MemoryError(f"cannot reserve {total} bytes")
        first = base + ROOM
        if _libc.mprotect(first, inner, mmap.PROT_READ | mmap.PROT_WRITE):
            raise MemoryError(f"cannot open {inner} bytes")
        start = first if self.where == "start" else first + inner - size
        array = np.frombuffer((ctypes.c_uint8 * size).from_address(start), np.uint8)
        weakref.finalize(array.base, _libc.munmap, base, total)
        self.taken += 1
        return array


_ANYWHERE = (_PRIVATE_UNRESERVED, -1, 0)


def forbid_writing(start: int, size: int) -> None:
    """Make the pages of a piece read-only: nothing else lies in them."""
    first = start // PAGE * PAGE
    assert not _libc.mprotect(first, start + size - first, mmap.PROT_READ)


@contextmanager
def guarded(where: str) -> Iterator[Guarded]:
    """While it lasts, machines and what they load and launch live in guarded memory."""
    guard = Guarded(where)
    plain, begin = host_memory.take, launch.Run.__init__

    def begin_guarded(self: launch.Run, *arguments: Any, **named: Any) -> None:
        begin(self, *arguments, **named)
        known = bytes(self.parameters)[: self.kernel.traits.parameter_bytes]
        self.guarded_parameters = guard(len(known), 1)  # type: ignore[attr-defined]
        self.guarded_parameters[:] = np.frombuffer(known, np.uint8)  # type: ignore[attr-defined]
        self.context[Context.PARAMETERS] = self.guarded_parameters.ctypes.data  # type: ignore[attr-defined]

    host_memory.take = guard
    launch.Run.__init__ = begin_guarded  # type: ignore[method-assign]
    try:
        yield guard
    finally:
        host_memory.take = plain
        launch.Run.__init__ = begin  # type: ignore[method-assign]
