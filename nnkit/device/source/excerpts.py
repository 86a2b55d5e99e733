"""What a message shows of the user's source: paths as they were given, and the line that is meant, marked."""

import os
import re
import time
from pathlib import Path

from nnkit.errors import NnkitError
from nnkit.ptx.locations import renamed

_STARTED = time.time()
_MOST = 4


def as_given(ptx: str, name: str) -> str:
    """The PTX with the paths of its line information as the user gives them, where `name` is relative.

    The compiler makes them absolute. The source is then what it was called, and what lies below the current
    directory is relative to it.
    """
    if os.path.isabs(name):
        return ptx
    try:
        own, here = os.path.abspath(name), os.path.join(os.getcwd(), "")
    except OSError:  # The current directory is gone.
        return ptx

    def shown(path: str) -> str:
        path = os.path.normpath(path)
        return name if path == own else path.removeprefix(here)

    return renamed(ptx, shown)


def with_source(error: NnkitError, name: str, text: str) -> NnkitError:
    """The error with the source lines that its message names as a note: `str(error)` stays one line.

    `name` and `text` are those of the source; other files are read, if nobody has changed them meanwhile.
    """
    places = dict.fromkeys(
        re.findall(r"([^\s(),:'\"][^(),:'\"]*\.\w+):(\d+)\b", str(error).partition("\n")[0])
    )
    if re.search(r"[(),:'\"]", name):
        own = re.findall(rf"(?<![^\s(]){re.escape(name)}:(\d+)\b", str(error).partition("\n")[0])
        places = dict.fromkeys((name, number) for number in own) | places
    notes = []
    for found, number in places:
        # A path may have blanks in it: what stands before it in the sentence does not belong to it.
        file = name if found == name or found.endswith(f" {name}") else found.split()[-1]
        lines = text.splitlines() if file == name else _lines_of(file)
        if (
            0 < int(number) <= len(lines)
            and (marked := mark(lines[int(number) - 1], int(number))) not in notes
        ):
            notes.append(marked)
    if notes:
        error.add_note("\n".join(notes[:_MOST]))
    return error


def mark(line: str, number: int) -> str:
    """A line of source under its number, and below it a caret under where its code begins."""
    code = line.expandtabs(4).rstrip()
    bare = re.sub(r"\s*//.*$", "", code) or code
    begin = len(bare) - len(bare.lstrip())
    gutter = f"{number:>6} | "
    return f"{gutter}{code}\n{' ' * (len(gutter) - 2)}| {' ' * begin}^{'~' * (len(bare) - begin - 1)}"


def _lines_of(file: str) -> list[str]:
    """The lines of a header, as they were compiled: none if it has changed since the program began."""
    try:
        if os.stat(file).st_mtime > _STARTED:
            return []
        return Path(file).read_text("utf-8-sig").splitlines()
    except (OSError, ValueError):
        return []
