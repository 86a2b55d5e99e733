"""Every error that nnkit raises on purpose: one line that says what, where and what to do.

The command line prints that line and exits with `exit_status`; a library user catches `NnkitError`. The line
of a kernel's source that is meant is shown below, as a note of the exception (PEP 678).
"""

import difflib
import re
from collections.abc import Iterable
from typing import Protocol

STOPPED = 130
"""The exit status of what Ctrl-C has ended, as the shell counts it."""


class NnkitError(Exception):
    """What all of nnkit's own errors are."""

    exit_status = 2


class UsageError(NnkitError):
    """A call or an option is wrong; nothing was done."""


class DataError(NnkitError):
    """A data file is missing, damaged or not what it should be."""


class CheckpointError(NnkitError):
    """A checkpoint cannot be read, or cannot be written."""


class OutputError(NnkitError):
    """A file that was asked for (metrics, a plot) cannot be written."""


class PluginError(NnkitError):
    """A backend that was asked for is broken or cannot do what is asked of it."""


class DeviceError(NnkitError):
    """A device cannot be had, or failed: no GPU, no driver, no memory left."""


class CompileError(NnkitError):
    """CUDA source or PTX that the compiler or the device refuses; the message holds the compiler's log."""


class LaunchError(NnkitError):
    """A kernel was launched with a wrong argument, grid, block or amount of shared memory."""


class FaultRecord(Protocol):
    """What went wrong in a kernel, for programs and tools; what is not known is empty, or 0."""

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
        """Of an access: in bytes, in shared, local and param memory from their start."""

    @property
    def size(self) -> int:
        """Of an access: bytes a thread."""

    @property
    def nearest(self) -> str:
        """Of an access out of bounds: which memory lies near, in words."""


class KernelError(NnkitError):
    """A kernel went wrong while it ran: an assertion, a trap, a barrier that not all threads reach.

    On `virtual` `fault` tells the rest; elsewhere it is None.
    """

    exit_status = 1

    def __init__(self, message: str, fault: FaultRecord | None = None):
        super().__init__(message)
        self.fault = fault


class DeviceMemoryError(KernelError):
    """A kernel read or wrote where it may not: out of bounds, misaligned, or freed."""


class RankLostError(NnkitError):
    """Another rank is gone; what was under way with it cannot be completed."""

    exit_status = 1


class CommonError(NnkitError):
    """What all ranks that train together know at the same moment: one of them says it."""

    def __init__(self, message: str, exit_status: int = 1):
        super().__init__(message)
        self.exit_status = exit_status


class DivergedError(CommonError):
    """The loss became infinite or not a number."""


class RanksDisagreeError(CommonError):
    """What ranks share is not the same on all of them."""


class UnrecoverableError(CommonError):
    """Parts of the network went with the ranks that held them."""


class Ended(Exception):
    """This process ends with that status, and what there is to say has been said."""

    def __init__(self, exit_status: int):
        super().__init__(f"ends with status {exit_status}")
        self.exit_status = exit_status


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UsageError:
    """The error for a name that nobody has, with the known names and the nearest one."""
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
    """The error as people read it: its line, then the line of source that it means, where that is known.

    A CompileError's comes out of the compiler's log, another error's stands in its notes.
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
    """What went wrong, in words for the end of a line: an OSError's own, without number and path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
