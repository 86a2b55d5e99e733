"""Every error that nnkit raises on purpose: one line that says what, where and what to do.

The command line prints that line and exits with `exit_status`; a library user catches `NnkitError`. If the
error is in a kernel, the line of its source is a note of the exception (PEP 678).
"""

import difflib
import re
from collections.abc import Iterable
from typing import Protocol

STOPPED = 130
"""The exit status after Ctrl-C, by the shell's convention: 128 + the number of SIGINT."""


class NnkitError(Exception):
    """The base class of all errors that nnkit raises on purpose."""

    exit_status = 2


class UsageError(NnkitError):
    """A call or an option is wrong; nothing was done."""


class DataError(NnkitError):
    """A data file is missing, damaged or has the wrong format."""


class CheckpointError(NnkitError):
    """A checkpoint cannot be read, or cannot be written."""


class OutputError(NnkitError):
    """An output file (metrics, a plot) cannot be written."""


class PluginError(NnkitError):
    """The chosen backend is broken, or does not support the device or the element type."""


class DeviceError(NnkitError):
    """A device is not available, or failed: no GPU, no driver, no memory left."""


class CompileError(NnkitError):
    """The compiler or the device refuses CUDA source or PTX; the message holds the compiler's log."""


class LaunchError(NnkitError):
    """A kernel was launched with a wrong argument, grid, block or amount of shared memory."""


class FaultRecord(Protocol):
    """What went wrong in a kernel, for programs to read. Unknown fields are empty, or 0."""

    @property
    def kernel(self) -> str:
        """Its name in the PTX."""

    @property
    def what(self) -> str:
        """The instruction, as PTX names it, or load or store."""

    @property
    def file(self) -> str:
        """The CUDA source."""

    @property
    def line(self) -> int:
        """Its line."""

    @property
    def block(self) -> tuple[int, int, int] | None:
        """(x, y, z) in the grid; None where no single block is to blame."""

    @property
    def thread(self) -> tuple[int, int, int] | None:
        """(x, y, z) in the block."""

    @property
    def space(self) -> str:
        """Of an access: global, shared, local, const or param."""

    @property
    def address(self) -> int:
        """Of an access: in bytes; in shared, local and param memory an offset from its start."""

    @property
    def size(self) -> int:
        """Of an access: bytes per thread."""

    @property
    def nearest(self) -> str:
        """Of an access out of bounds: which memory lies near, in words."""


class KernelError(NnkitError):
    """A kernel failed while it ran: an assertion, a trap, a barrier that not all threads reach.

    `fault` is the record of the device `virtual`; on other devices it is None.
    """

    exit_status = 1

    def __init__(self, message: str, fault: FaultRecord | None = None):
        super().__init__(message)
        self.fault = fault


class DeviceMemoryError(KernelError):
    """A kernel read or wrote where it may not: out of bounds, misaligned, or freed."""


class RankLostError(NnkitError):
    """Another rank is lost; communication with it cannot be completed."""

    exit_status = 1


class CommonError(NnkitError):
    """An error that all ranks raise at the same point of the program; only one of them prints it."""

    def __init__(self, message: str, exit_status: int = 1):
        super().__init__(message)
        self.exit_status = exit_status


class DivergedError(CommonError):
    """The loss became infinite or not a number."""


class RanksDisagreeError(CommonError):
    """Replicas of the same parameters differ between ranks."""


class UnrecoverableError(CommonError):
    """Parts of the network are lost: neither their rank nor a rank with a copy is left."""


class Ended(Exception):
    """End this process with that status; the message has been printed already."""

    def __init__(self, exit_status: int):
        super().__init__(f"ends with status {exit_status}")
        self.exit_status = exit_status


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UsageError:
    """The error for a name that does not exist. It lists the known names, and suggests a near one."""
    names = sorted(known)
    if not isinstance(name, str):
        given = type(name).__name__
        return UsageError(
            f"a {kind} has a name, which is text, not {given}; known: {', '.join(names) or 'none'}"
        )
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UsageError(f"there is no {kind} {name!r}; known: {', '.join(names) or 'none'}.{hint}")


def lines_of(error: NnkitError) -> list[str]:
    """The error as the command line prints it: its line, then the line of source, where that is known.

    The source line is in the notes of the error; for a CompileError without notes, in the compiler's log.
    """
    first, *log = str(error).splitlines() or [""]
    notes = [line for note in getattr(error, "__notes__", ()) for line in note.splitlines()]
    if notes or not isinstance(error, CompileError):
        return [" ".join(str(error).split()) if not isinstance(error, CompileError) else first, *notes]
    for place, code, caret in zip(log, log[1:], log[2:], strict=False):
        if re.match(r".+\(\d+\): .*error", place) and caret.strip() == "^":
            return [first, code, caret]
    return [first]


def reason(error: BaseException) -> str:
    """The cause in words, to end a line with: an OSError's message without its number and path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
