"""Which line of the source an instruction came from: `.file` and `.loc`, through inlined functions."""

import os
import re
from collections.abc import Callable
from typing import NamedTuple

from nnkit.ptx.ir import Location, PtxError
from nnkit.ptx.tokens import Cursor, tokenise

_FILE = re.compile(r'^(\s*\.file\s+(\d+)\s+")((?:[^"\\]|\\.)*)"', re.MULTILINE)

_ESCAPE = re.compile(r"(?:\\(?:[0-7]{1,3}|.))+")

Place = tuple[int, int, int]
"""File number, line, column."""


def file_name(quoted: str) -> str:
    """A path as `.file` has it between its quotes, where bytes outside of ASCII are octal, as `\\303`."""

    def plain(run: re.Match[str]) -> str:
        codes = re.findall(r"\\([0-7]{1,3}|.)", run[0])
        read = (bytes([int(code, 8) & 255]) if code[0] in "01234567" else code.encode() for code in codes)
        return b"".join(read).decode(errors="replace")

    return _ESCAPE.sub(plain, quoted)


def quoted(name: str) -> str:
    """A path as `.file` has it between its quotes."""
    return "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}"
        for byte in os.fsencode(name)
    )


def files(text: str) -> dict[int, str]:
    """The paths that a module's `.file` directives give, by their numbers."""
    return {int(found[2]): file_name(found[3]) for found in _FILE.finditer(text)}


def renamed(text: str, name: Callable[[str], str]) -> str:
    """A module whose `.file` directives give other paths: what `name` makes of theirs."""
    return _FILE.sub(lambda found: f'{found[1]}{quoted(name(file_name(found[3])))}"', text)


def place_of(text: str, number: int) -> tuple[str, int] | None:
    """File ("" if it has no path) and line of the source that line `number` of a module comes from.

    That of the last `.loc` before, as it stands; None if there is none. The module may be one that cannot be
    parsed.
    """
    for line in reversed(text.splitlines()[:number]):
        if line.lstrip().startswith(".loc"):
            try:
                cursor = Cursor(tokenise(line))
                cursor.expect(".loc")
                file, at = cursor.number(), cursor.number()
            except PtxError:
                continue
            return files(text).get(file, ""), at
    return None


class _Frame(NamedTuple):
    """A place and the place of the call that put it there, if it was inlined."""

    place: Place
    caller: "_Frame | None"


class Locations:
    """The lines that `.loc` tells, one after another."""

    def __init__(self, text: str):
        # `.file` comes last in NVRTC's output, after the lines that refer to it.
        self.files = files(text)
        self.now = Location()
        self.frames: dict[Place, _Frame] = {}
        self.known: dict[_Frame, Location] = {}

    def read(self, cursor: Cursor) -> None:
        """.loc file line column [, function_name label [+ n], inlined_at file line column]"""
        place = (cursor.number(), cursor.number(), cursor.number())
        caller = None
        while cursor.take(","):
            if cursor.now.text == "function_name":
                cursor.next()
                cursor.word()
                if cursor.take("+"):
                    cursor.number()
            else:
                cursor.expect("inlined_at")
                at = (cursor.number(), cursor.number(), cursor.number())
                # The place of the call was told before, and how it was itself inlined.
                caller = self.frames.get(at, _Frame(at, None))
        if caller is not None and caller.place == place:
            caller = None
        frame = self.frames[place] = _Frame(place, caller)
        # Line 0 says that the instruction belongs to no line; the last real one helps a reader more.
        if place[1]:
            if frame not in self.known:
                self.known[frame] = self._location(frame)
            self.now = self.known[frame]

    def _location(self, frame: _Frame) -> Location:
        """The innermost line in the kernel's own file; where the code stands, if that is elsewhere."""
        frames = [frame]
        while frames[-1].caller is not None and len(frames) < 100:
            frames.append(frames[-1].caller)
        home = frames[-1].place[0]
        own = next(f for f in frames if f.place[0] == home)
        inside = "" if own is frame else f"{self.files.get(frame.place[0], '')}:{frame.place[1]}"
        return Location(self.files.get(home, ""), own.place[1], inside)
