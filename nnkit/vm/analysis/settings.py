"""What the environment says of the machine: its settings are read here alone."""

import os

from nnkit.vm.analysis.options import Options


def options(width: int | None = None) -> Options:
    """How code is made where the program says no more than the width. Raises ValueError."""
    return Options(width, _number("NNKIT_POISON", 0) != 0)


def threads() -> int:
    """How many threads share a grid's blocks. Raises ValueError."""
    return _number("NNKIT_THREADS", len(os.sched_getaffinity(0)), least=1)


def most_instructions() -> int:
    """Instructions of a vector after which a kernel is stopped; 0 for no limit. Raises ValueError."""
    return _number("NNKIT_MAX_INSTRUCTIONS", 0)


def dump() -> str:
    """The file that LLVM IR is written to before it is compiled, for those who work on the machine; or ""."""
    return os.environ.get("NNKIT_DUMP_LLVM", "")


def _number(name: str, default: int, least: int = 0) -> int:
    """A whole number from the environment. Raises ValueError, in one line, for anything else."""
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < least:
        text = text if len(text) < 40 else f"{text[:37]}..."
        raise ValueError(f"{name}={text}: give a whole number{f' of {least} or more' if least else ''}")
    return value
