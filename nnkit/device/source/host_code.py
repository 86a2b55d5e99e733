"""Ordinary .cu files: kernels beside host code, which is left out so that NVRTC compiles the rest.

NVRTC refuses host functions, `<<<>>>` and whatever is declared of the host's libraries. What is left out is
replaced by blanks, so that all lines keep their numbers, and only what is certainly no device code is:
functions, variables and types that nothing marks as such. The text is cut along its tokens and declarations
(`cpp_tokens`, `cpp_items`); which of its conditions hold the compiler itself says. A kernel that needs what
was left out does not compile, with its line; it never means something else.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from nnkit.device.cpp.conditions import DEFINE, Compile, NotResolvedError, directives, resolve
from nnkit.device.cpp.items import Item, Reader
from nnkit.device.cpp.macros import Macros
from nnkit.device.cpp.tokens import Token, UnreadableError, blank, tokens
from nnkit.device.source.host_cuts import lost, replacement, ways

ROUNDS = 12
"""How often more may be left out before it is given up."""

_INCLUDE = re.compile(r'#\s*include\s*(?:"([^"\n]+)"|<([^>\n]+)>)')
_ERROR = re.compile(r"^(.+)\((\d+)\): (?:catastrophic )?error\b.*$", re.MULTILINE)
_CONTEXT = re.compile(r'\bat line (\d+)(?: of "?([^"\n]+?)"?)?$', re.MULTILINE)
_DIRECTIVES = "nnkit_directives_of:"


@dataclass
class File:
    """The source, or a header of its own, and what of it is left out."""

    path: str
    """What messages call it, and what it is included as."""
    text: str
    tokens: list[Token] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    reader: Reader | None = None
    cuts: dict[int, str] = field(default_factory=dict)
    """How items are left out (`nnkit.device.source.host_cuts`), by their first token."""

    def all_items(self) -> Iterator[Item]:
        """Every declaration, those in namespaces and classes too, outer ones first."""
        todo = list(self.items)
        while todo:
            item = todo.pop(0)
            yield item
            todo += item.children

    def line(self, item: Item) -> int:
        """Where an item begins."""
        return self.tokens[item.first].line


@dataclass(frozen=True)
class Separated:
    """A source without its host code."""

    text: str
    headers: dict[str, str]
    """The source's own headers without theirs, by the names that the text includes them under."""
    left_out: dict[str, str]
    """Where what was left out stands, by its name, as "file:line"."""
    host_variables: dict[str, str]
    """Where those variables of the host stand that may still be there."""
    lost: dict[str, str]
    """Where names were declared that now mean nothing, or something else."""


class CannotSeparateError(Exception):
    """Host code that cannot be left out; the message says where and why, if there is something to say."""


class NoDeviceCodeError(CannotSeparateError):
    """Nothing is marked for the device; `functions` says whether there are functions at all."""

    def __init__(self, functions: bool):
        super().__init__("")
        self.functions = functions


def separate(path: str, text: str, folders: Sequence[str], compiles: Compile) -> tuple[Separated, bool, str]:
    """Leave out the host code of a text and of the headers in `folders` that it includes.

    Returns what is left, whether it compiles, and the compiler's last log. Raises CannotSeparateError.
    """
    files = _own_files(path, text, folders)
    try:
        files[0].text, own, expansions = resolve(
            files[0].text, {file.path: file.text for file in files[1:]}, compiles
        )
    except NotResolvedError as error:
        raise CannotSeparateError(str(error)) from None
    for file in files[1:]:
        file.text = own[file.path]
    macros = _macros(files, expansions)
    for file in files:
        _read(file, macros, first=file is files[0])
        _refuse_counter(file, macros)
        _cut_at_first(file)
    if not any(item.marked for file in files for item in file.all_items()):
        raise NoDeviceCodeError(any(item.kind == "function" for item in files[0].all_items()))
    known = {os.path.abspath(file.path): file for file in files} | {file.path: file for file in files}
    for _ in range(ROUNDS):
        separated = _separated(files)
        good, log = compiles(separated.text, separated.headers)
        if good or not _cut_more(log, known):
            break
    return separated, good, log


def _own_files(path: str, text: str, folders: Sequence[str]) -> list[File]:
    """The source and the headers of its own, whose includes name absolute paths from now on."""
    found: dict[str, File] = {}

    def add(name: str, content: str, folder: str) -> File:
        file = File(name, content)
        found[os.path.abspath(name)] = file
        pieces, at = [], 0
        for token in list(tokens(content, tolerant=True)):
            included = _INCLUDE.match(token.text) if token.kind == "directive" else None
            if included is None:
                continue
            places = [folder, *folders] if included[1] else list(folders)
            target = _first_file(included[1] or included[2], places)
            if target is None:
                continue
            if target not in found:
                with open(target, encoding="utf-8-sig", errors="surrogateescape") as stream:
                    add(target, stream.read(), os.path.dirname(target))
            pieces += [
                content[at : token.start],
                f'#include "{found[target].path}"',
                token.text[included.end() :],
            ]
            at = token.end
        file.text = "".join(pieces) + content[at:]
        return file

    main = add(path, text, os.path.dirname(os.path.abspath(path)))
    return [main, *(file for file in found.values() if file is not main)]


def _first_file(name: str, folders: Sequence[str]) -> str | None:
    for folder in folders:
        place = os.path.normpath(os.path.join(os.path.abspath(folder), name))
        if os.path.isfile(place):
            return place
    return None


def _macros(files: Sequence[File], expansions: Mapping[str, str]) -> Macros:
    """What the files define, all definitions of a name together, and what others define."""
    bodies = {name: [inner.text for inner in tokens(text, True)] for name, text in expansions.items()}
    functional = set()
    for file in files:
        for token in tokens(file.text, tolerant=True):
            defined = DEFINE.match(token.text) if token.kind == "directive" else None
            if defined is None:
                continue
            body = defined[3]
            if defined[2]:
                functional.add(defined[1])
                body = body.partition(")")[2]
            words = [inner.text for inner in tokens(f" {body}", tolerant=True) if inner.kind != "string"]
            bodies[defined[1]] = bodies.get(defined[1], []) + words
    return Macros(bodies, frozenset(functional))


def _read(file: File, macros: Macros, first: bool) -> None:
    try:
        file.tokens = list(tokens(file.text))
        file.reader = Reader(file.tokens, macros)
        file.items = file.reader.items()
    except UnreadableError as error:
        if first:
            raise CannotSeparateError(f"{file.path}:{error.line}: {error}") from None
        file.tokens, file.items, file.reader = [], [], None  # Then the header stays as it is.


def _refuse_counter(file: File, macros: Macros) -> None:
    """A counter of the compiler's counts what is left out too."""
    counter = "__COUNTER__"
    marked = [(item.first, item.last) for item in file.all_items() if item.marked]
    for index, token in enumerate(file.tokens):
        if token.kind == "directive":
            counts = counter in token.text and not DEFINE.match(token.text)
        else:
            counts = token.text == counter or macros.holds(token.text, frozenset({counter}))
            counts = counts and any(first <= index <= last for first, last in marked)
        if counts:
            raise CannotSeparateError(f"{file.path}:{token.line}: {counter} depends on it")


def _cut_at_first(file: File) -> None:
    """Leave out what the compiler would refuse: bodies of host functions, variables of the host."""
    for item in file.all_items():
        if item.marked or item.constant or (item.member and not (item.kind == "variable" and item.static)):
            continue
        if item.kind in ("function", "variable") and file.reader and (known := ways(file.reader, item)):
            file.cuts[item.first] = known[0]


def _cut_more(log: str, files: Mapping[str, File]) -> bool:
    """Leave out what the compiler complains of; False if there is nothing that may be."""
    places = list(_places(log))
    # What is a constant is complained of most often because of something else.
    for constants in (False, True):
        progress = False
        for place, number in places:
            file = files.get(place) or files.get(os.path.abspath(place))
            if file is not None and file.items:
                progress |= _cut_at(file, number, constants)
        if progress:
            return True
    return False


def _places(log: str) -> Iterator[tuple[str, int]]:
    """The files and lines of the errors, and of what made them in headers of others."""
    errors = list(_ERROR.finditer(log))
    for index, error in enumerate(errors):
        yield error[1], int(error[2])
        end = errors[index + 1].start() if index + 1 < len(errors) else len(log)
        for context in _CONTEXT.finditer(log, error.end(), end):
            yield (context[2] or error[1]), int(context[1])


def _cut_at(file: File, line: int, constants: bool) -> bool:
    """Leave out more of the innermost item at that line that may be; False if none may."""
    inside = [item for item in file.all_items() if _covers(file, item, line) and item.kind != "scope"]
    for item in reversed(inside):
        if item.marked:
            continue
        if file.reader is None or (item.constant and not constants):
            continue
        way, known = file.cuts.get(item.first), ways(file.reader, item)
        left = known[known.index(way) + 1 :] if way in known else known
        if left:
            file.cuts[item.first] = left[0]
            return True
    return False


def _covers(file: File, item: Item, line: int) -> bool:
    last = file.tokens[item.last]
    return file.tokens[item.first].line <= line <= last.line + last.text.count("\n")


def _separated(files: Sequence[File]) -> Separated:
    result = Separated("", {}, {}, {}, {})
    own = {file.path for file in files}
    kept: set[str] = set()
    for file in files:
        for item in file.all_items():
            place = f"{file.path}:{file.line(item)}"
            way = file.cuts.get(item.first) if item.kind != "scope" else None
            if way is not None and file.reader is not None:
                for name in {item.name, *item.variables} - {""}:
                    result.left_out.setdefault(name, place)
                result.lost.update(dict.fromkeys(lost(file.reader, item, way), place))
            elif item.marked or item.constant:
                kept.update(item.variables)
            else:
                result.host_variables.update(dict.fromkeys(item.variables, place))
        result.headers[file.path] = _cut_text(file, own)
        result.headers[f"{_DIRECTIVES}{file.path}"] = _included_within("".join(directives(file.text)), own)
    for name in kept:
        result.host_variables.pop(name, None)
    text = result.headers.pop(files[0].path)
    words = (
        {word for cut in (text, *result.headers.values()) for word in _words(cut)} if result.lost else set()
    )
    return replace(result, text=text, lost={name: at for name, at in result.lost.items() if name in words})


def _words(text: str) -> Iterator[str]:
    for token in tokens(text, tolerant=True):
        if token.kind == "word":
            yield token.text
        elif token.kind == "directive" and (defined := DEFINE.match(token.text)):
            yield from re.findall(r"\w+", defined[3])


def _included_within(directive: str, own: Set[str]) -> str:
    """The directives with only the directives of the headers that they include."""

    def instead(found: re.Match[str]) -> str:
        return f'#include "{_DIRECTIVES}{found[1]}"' if found[1] in own else found[0]

    return _INCLUDE.sub(instead, directive)


def _cut_text(file: File, own: Set[str]) -> str:
    pieces: list[tuple[int, int, str]] = []
    skip = -1
    for item in sorted(file.all_items(), key=lambda item: (item.first, -item.last)):
        if item.first <= skip:
            continue
        way = file.cuts.get(item.first) if item.kind != "scope" else None
        end = file.tokens[item.last].end
        head = file.tokens[item.first : item.body if item.kind == "function" else item.last]
        if way is not None and file.reader is not None:
            first, instead = replacement(file.reader, item, way)
            pieces.append((file.tokens[first].start, end, instead))
            if way != "body" or item.kind == "class":
                skip = item.last
                continue
        if not item.marked and item.kind in ("function", "declaration", "variable"):
            # NVRTC refuses the word; without it the function is one that no kernel calls.
            pieces += [(token.start, token.end, "") for token in head if token.text == "__host__"]
    result, at = [], 0
    within = [token for token in file.tokens if token.kind == "directive"]
    for start, end, instead in sorted(pieces):
        result += [file.text[at:start], instead]
        kept = start
        for token in within:
            if start <= token.start < end:
                result += [blank(file.text[kept : token.start]), _included_within(token.text, own)]
                kept = token.end
        rest = blank(file.text[kept:end])
        result.append(rest[len(instead) :] if kept == start and "\n" not in rest[: len(instead)] else rest)
        at = end
    return "".join(result) + file.text[at:]
