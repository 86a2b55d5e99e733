"""printf from kernels: C's format string and CUDA's packed arguments to text."""

import re
import struct
from collections.abc import Callable

_SPECIFIER = re.compile(r"%([-+ #0]*)(\*|\d*)(?:\.(\*|\d*))?(hh|h|ll|l|j|z|t|L)?([diouxXeEfFgGaAcspn%])")


def render(template: str, arguments: bytes, string_at: Callable[[int], str]) -> str:
    """The text; arguments are packed at multiples of their size, as the compiler lays them out.

    `string_at` reads a C string from device memory. A specifier without an argument stays as it is.
    """
    position = 0

    def take(code: str, size: int) -> int | float | None:
        nonlocal position
        position = -(-position // size) * size
        if position + size > len(arguments):
            return None
        value: int | float = struct.unpack_from(code, arguments, position)[0]
        position += size
        return value

    def one(match: re.Match[str]) -> str:
        flags, width, precision, length, kind = match.groups()
        if kind == "%":
            return "%"
        stars = []
        for part in (width, precision):
            if part == "*":
                stars.append(take("<i", 4))
        if width == "*":
            width = str(stars.pop(0))
        if precision == "*":
            precision = str(stars.pop(0))
        layout = f"%{flags}{width}" + (f".{precision}" if precision is not None else "")
        wide = length in ("l", "ll", "j", "z", "t")
        if kind in "di":
            value = take("<q" if wide else "<i", 8 if wide else 4)
        elif kind in "ouxX":
            value = take("<Q" if wide else "<I", 8 if wide else 4)
        elif kind == "c":
            value = take("<i", 4)
            return match.group() if value is None else f"{layout}s" % chr(int(value) & 255)
        elif kind in "sp":
            value = take("<Q", 8)
            if value is None:
                return match.group()
            text = string_at(int(value)) if kind == "s" else f"{int(value):#x}"
            return f"{layout}s" % text
        else:
            value = take("<d", 8)
            if kind in "aA" and value is not None:
                return float(value).hex()
        if value is None:
            return match.group()
        return f"{layout}{'d' if kind in 'iu' else kind}" % value

    return _SPECIFIER.sub(one, template)
