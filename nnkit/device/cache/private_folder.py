"""Is a folder the user's own? What lies in the cache is run as code: nobody else may put anything there."""

import grp
import os
import pwd
import stat
import sys
from functools import cache
from pathlib import Path

OTHERS = stat.S_IWGRP | stat.S_IWOTH

_TOLD: set[str] = set()


def refusal(folder: Path) -> str | None:
    """Why the folder, existing or not, is no place for the user's code: what is wrong and what to do.

    None if it is private: it belongs to this user, and nobody else can write there or replace a folder or a
    link on the way to it. A group that has its owner alone, as many systems give each user, is nobody else.
    The administrator (who owns "/") is trusted, and so is a folder with the sticky bit on the way, such as
    /tmp: others cannot rename in it what is not theirs.
    """
    place = os.path.abspath(folder)
    whole = os.path.realpath(place)
    try:
        trusted = {os.geteuid(), 0, os.stat("/").st_uid}
        # Both ways: that of the names, whose links must not be another user's, and that of the folders.
        for path in (*_ways(place), *_ways(whole)):
            try:
                state = os.lstat(path)
            except FileNotFoundError:
                break
            if state.st_uid not in trusted:
                return f"{path} belongs to another user: {_elsewhere()}"
            if stat.S_ISLNK(state.st_mode):
                continue
            sticky = state.st_mode & stat.S_ISVTX and path not in (place, whole)
            alone = not state.st_mode & stat.S_IWOTH and is_group_of_one(state.st_gid, state.st_uid)
            if state.st_mode & OTHERS and not sticky and not alone:
                chmod = f"chmod go-w {path}, or " if state.st_uid == os.geteuid() else ""
                return f"others may write to {path}: {chmod}{_elsewhere()}"
        state = os.stat(whole)
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{error.filename} cannot be examined ({error.strerror}): {_elsewhere()}"
    if state.st_uid != os.geteuid():
        return f"{whole} belongs to another user: {_elsewhere()}"
    return None


@cache
def is_group_of_one(group: int, user: int) -> bool:
    """Whether the group is the user's own, of the same name, and nobody else is in it."""
    try:
        own, found = pwd.getpwuid(user), grp.getgrgid(group)
    except (KeyError, OverflowError):
        return False
    if own.pw_gid != group or found.gr_name != own.pw_name or not {own.pw_name}.issuperset(found.gr_mem):
        return False
    return all(other.pw_uid == user for other in pwd.getpwall() if other.pw_gid == group)


def _ways(path: str) -> list[str]:
    """The path's folders from the root down, itself at the end."""
    steps = Path(path)
    return [str(step) for step in (*reversed(steps.parents), steps)]


def _elsewhere() -> str:
    return "set NNKIT_CACHE_DIR to a folder that only you can write to"


def is_private(folder: Path) -> bool:
    """Whether the folder may be used; if not, that is told once, in a line on standard error."""
    why = refusal(folder)
    if why is None:
        return True
    if why not in _TOLD:
        _TOLD.add(why)
        print(f"nnkit: compiled kernels are not kept: {why}", file=sys.stderr)
    return False


def make_private(folder: Path) -> None:
    """Make the folder and those above it that are missing, for this user alone. Raises OSError."""
    missing = [step for step in (folder, *folder.parents) if not step.exists()]
    for step in reversed(missing):
        # One that another process makes meanwhile is looked at by `refusal` as any other.
        step.mkdir(mode=0o700, exist_ok=True)


def read_own(path: Path) -> bytes | None:
    """The content of a file of this user's that nobody else may write to; None for any other.

    What was opened is what is looked at, so that nothing can be put in its place in between. Raises OSError.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(handle, "rb") as stream:
        state = os.fstat(handle)
        if not stat.S_ISREG(state.st_mode) or state.st_uid != os.geteuid() or state.st_mode & OTHERS:
            return None
        return stream.read()


def write_own(path: Path, data: bytes) -> None:
    """Make a new file that only this user may read and write. Raises OSError, also if it exists."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags, 0o600), "wb") as stream:
        stream.write(data)
