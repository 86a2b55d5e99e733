"""Reading files that a user names. A named pipe or a device is refused: reading it might never end."""

import os
import re
import stat
from os import PathLike

_OPEN = re.compile(r"/dev/(?:stdin|fd/\d+)|/proc/(?:self|\d+)/fd/\d+")
"""Pipes that the shell opened for this program (`|` or `<(...)`): these have a writer, and are read."""


def read_file(path: str | PathLike[str]) -> bytes:
    """The content of a file; raises OSError, also for a named pipe, a device or a socket."""
    opened = _OPEN.fullmatch(os.fspath(path)) is not None
    # O_NONBLOCK: else opening a pipe would wait for a writer, and so would some devices.
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (0 if opened else os.O_NONBLOCK))
    with open(handle, "rb") as stream:
        if not opened:
            check_file(os.fstat(handle).st_mode)
        return stream.read()


def check_file(mode: int) -> None:
    """Raise OSError unless a mode is that of a file, or of a directory (opening that fails by itself)."""
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        kind = "a pipe" if stat.S_ISFIFO(mode) else "a device" if not stat.S_ISSOCK(mode) else "a socket"
        raise OSError(f"it is {kind}, not a file")
