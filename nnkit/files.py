"""Reading what a user names as a file. It must be one: what comes through a pipe may never come, nor end."""

import os
import re
import stat
from os import PathLike

_OPEN = re.compile(r"/dev/(?:stdin|fd/\d+)|/proc/(?:self|\d+)/fd/\d+")
"""What the program was given open, by the shell's `|` or `<(...)`: somebody writes to it."""


def read_file(path: str | PathLike[str]) -> bytes:
    """The content of a file; raises OSError, also for a pipe, a device or a socket."""
    waits = _OPEN.fullmatch(os.fspath(path)) is not None
    # Opening a pipe waits for whoever writes to it, and so does opening some devices.
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (0 if waits else os.O_NONBLOCK))
    with open(handle, "rb") as stream:
        if not waits:
            check_file(os.fstat(handle).st_mode)
        return stream.read()


def check_file(mode: int) -> None:
    """Raise OSError for the mode of what is neither a file nor a directory, which has an error of its own."""
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        kind = "a pipe" if stat.S_ISFIFO(mode) else "a device" if not stat.S_ISSOCK(mode) else "a socket"
        raise OSError(f"it is {kind}, not a file")
