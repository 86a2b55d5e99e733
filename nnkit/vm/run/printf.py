"""printf from kernels: C's format string and CUDA's packed arguments to text."""

import ctypes
import re
import struct
from collections.abc import Callable

_SPECIFIER = re.compile(
    rb"%([-+ #0]*)(\*|\d*)(?:(\.)(\*|-?\d*))?(hh|h|ll|l|j|z|t|L|q)?([diouxXeEfFgGaAcspn%])", re.DOTALL
)
_WIDE = (b"l", b"ll", b"j", b"z", b"t", b"q")
LONGEST = 1 << 20
"""Bytes that one specifier may print: a width that is no width must not fill the memory."""

_FORMAT = ctypes.CDLL(None).snprintf
_FORMAT.restype = ctypes.c_int


def render(template: bytes, arguments: bytes, string_at: Callable[[int], bytes]) -> tuple[bytes, int]:
    """The text, and how many arguments it took, which is what CUDA's printf returns.

    Arguments are packed at multiples of their size, as the compiler lays them out; `string_at` reads a C
    string from device memory. What is printed is what the C library prints. A specifier without an
    argument stays as it is, and so does %n.
    """
    position = taken = 0

    def take(code: str, size: int) -> int | float:
        nonlocal position, taken
        start = -(-position // size) * size
        if start + size > len(arguments):
            raise _Missing
        position = start + size
        taken += 1
        value: int | float = struct.unpack_from(code, arguments, start)[0]
        return value

    def one(match: re.Match[bytes]) -> bytes:
        flags, width, point, precision, length, kind = match.groups(b"")
        if kind in b"%n":
            return b"%" if kind == b"%" else match.group()
        try:
            width, precision = (
                b"%d" % take("<i", 4) if part == b"*" else part for part in (width, precision)
            )
            if width[:1] == b"-":
                flags, width = flags + b"-", width[1:]
            if precision[:1] == b"-":
                # C: a negative precision is as if it were not there.
                point = precision = b""
            if any(part and int(part) > LONGEST for part in (width, precision)):
                return match.group()
            value = _argument(take, string_at, kind, length)
        except _Missing:
            return match.group()
        length = length if kind in b"diouxX" else b""
        return _formatted(b"%" + flags + width + point + precision + length + kind, value, match.group())

    text = _SPECIFIER.sub(one, template)
    return text, taken


class _Missing(Exception):
    """There are fewer arguments than specifiers."""


def _argument(
    take: Callable[[str, int], int | float], string_at: Callable[[int], bytes], kind: bytes, length: bytes
) -> object:
    if kind in b"diouxX":
        wide = length in _WIDE
        return (ctypes.c_int64 if wide else ctypes.c_int32)(
            int(take("<q" if wide else "<i", 8 if wide else 4))
        )
    if kind == b"c":
        return ctypes.c_int32(int(take("<i", 4)))
    if kind in b"sp":
        address = int(take("<Q", 8))
        return ctypes.c_char_p(string_at(address)) if kind == b"s" else ctypes.c_void_p(address)
    return ctypes.c_double(take("<d", 8))


def _formatted(layout: bytes, value: object, otherwise: bytes) -> bytes:
    length = _FORMAT(None, ctypes.c_size_t(0), layout, value)
    if not 0 <= length <= LONGEST:
        return otherwise
    buffer = ctypes.create_string_buffer(length + 1)
    _FORMAT(buffer, ctypes.c_size_t(length + 1), layout, value)
    return buffer.raw[:length]
