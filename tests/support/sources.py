"""What the tests of the virtual machine share: sources with marked lines, and how their errors must read."""

import re
from dataclasses import dataclass

from nnkit.errors import KernelError

HEAD = """
#define ALL 0xFFFFFFFFu
#define K(name) extern "C" __global__ void name(const int* in, int* out, int n)
"""
"""Begins a source of small kernels, each `K(name) { ... }`."""


@dataclass(frozen=True)
class Report:
    """A kernel's error, taken apart."""

    kernel: str
    file: str
    line: int
    block: tuple[int, ...]
    thread: tuple[int, ...]
    what: str


_MESSAGE = re.compile(
    r"kernel (\w+) at (?:.*/)?([\w.]+):(\d+), "
    r"block \((\d+), (\d+), (\d+)\), thread \((\d+), (\d+), (\d+)\): (.*)",
    re.DOTALL,
)


def report(error: KernelError) -> Report:
    """Asserts that the message has all its parts, and returns them."""
    found = _MESSAGE.fullmatch(str(error))
    assert found, str(error)
    numbers = [int(n) for n in found.groups()[3:9]]
    return Report(found[1], found[2], int(found[3]), tuple(numbers[:3]), tuple(numbers[3:]), found[10])


def line_of(source: str, mark: str) -> int:
    """The number of the one line that ends in `// mark`."""
    lines = [n for n, line in enumerate(source.splitlines(), 1) if line.endswith(f"// {mark}")]
    assert len(lines) == 1, (mark, lines)
    return lines[0]
