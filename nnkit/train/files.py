"""Atomic writing: whoever reads the file finds the old content or the new, never a part of either."""

import contextlib
import os
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary file beside `path`, sync, rename, sync the directory. Raises OSError.

    If the process is killed or the disk is full, `path` still has its old content.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_directory(path.parent)


def check_writable(path: Path) -> None:
    """Raise OSError unless a file can be written at `path`. Changes nothing there."""
    existed = path.exists()
    # O_NONBLOCK: opening a pipe that nobody reads would wait for ever.
    os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666))
    if not existed:
        path.unlink()


def _sync_directory(directory: Path) -> None:
    """Make a rename survive a power failure, where the system can sync a directory."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
