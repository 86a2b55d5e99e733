"""Ordinary .cu files: kernels beside host code, which is left out so that NVRTC compiles the rest.

NVRTC refuses host functions, `<<<>>>` and whatever is declared of the host's libraries. What is left out is
replaced by blanks, so that all lines keep their numbers, and only what is certainly no device code is:
functions, variables and types that nothing marks as such. The text is cut along its tokens and declarations
(`cpp_tokens`, `cpp_items`); which of its conditions hold the compiler itself says. A kernel that needs what
was left out does not compile, with its line; it never means something else.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from nnkit.device.cpp_items import Item, Macros, Reader
from nnkit.device.cpp_tokens import Token, UnreadableError, blank, tokens

Compile = Callable[[str, Mapping[str, str]], tuple[bool, str]]
"""Compiles a text with these headers; says whether it went well, and the log."""

ROUNDS = 12
"""How often more may be left out before it is given up."""

_INCLUDE = re.compile(r'#\s*include\s*(?:"([^"\n]+)"|<([^>\n]+)>)')
_DEFINE = re.compile(r"#\s*define\s+(\w+)(\()?((?:\\\r?\n|[^\n])*)")
_CONDITION = re.compile(r"#\s*(ifdef|ifndef|if|elif|elifdef|elifndef|else|endif)\b")
_ACTIVE = re.compile(r'#pragma message: "nnkit (\d+) (\d+)"')
_ERROR = re.compile(r"^(.+)\((\d+)\): (?:catastrophic )?error\b.*$", re.MULTILINE)
_CONTEXT = re.compile(r'\bat line (\d+)(?: of "?([^"\n]+?)"?)?$', re.MULTILINE)
_POISON = "nnkit_left_out"


@dataclass
class File:
    """The source, or a header of its own, and what of it is left out."""

    path: str
    """What messages call it, and what it is included as."""
    text: str
    tokens: list[Token] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    cuts: dict[int, str] = field(default_factory=dict)
    """How items are left out, by their first token: "body", "poison" or "whole"."""

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
    for file, active in zip(files, _active_texts(files, compiles), strict=True):
        file.text = active
    macros = _macros(files)
    for file in files:
        _read(file, macros, first=file is files[0])
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
                with open(target, encoding="utf-8", errors="surrogateescape") as stream:
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


def _active_texts(files: Sequence[File], compiles: Compile) -> list[str]:
    """The texts without what their conditions leave out, as the compiler decides them."""
    branches = [_branches(file.text) for file in files]
    if not any(branches):
        return [file.text for file in files]
    probes = [
        _probe(file.text, number, found)
        for number, (file, found) in enumerate(zip(files, branches, strict=True))
    ]
    headers = {file.path: probe for file, probe in zip(files[1:], probes[1:], strict=True)}
    good, log = compiles(probes[0], headers)
    if not good and "catastrophic error" in log:
        first = next(line for line in log.splitlines() if "catastrophic error" in line)
        raise CannotSeparateError(first)
    active = {(int(number), int(branch)) for number, branch in _ACTIVE.findall(log)}
    texts = []
    for number, (file, found) in enumerate(zip(files, branches, strict=True)):
        out = [
            piece for index, pieces in enumerate(found) if (number, index) not in active for piece in pieces
        ]
        texts.append(_without(file.text, out, keep_conditions=True))
    return texts


def _branches(text: str) -> list[list[tuple[int, int]]]:
    """The pieces of text of every branch of every condition, without those of conditions within it."""
    found: list[list[tuple[int, int]]] = []
    opened: list[tuple[int, int]] = []  # The branch, and where its current piece begins.
    for token in tokens(text, tolerant=True):
        condition = _CONDITION.match(token.text) if token.kind == "directive" else None
        if condition is None:
            continue
        if opened:
            branch, start = opened[-1]
            found[branch].append((start, token.start))
        word = condition[1]
        if word in ("if", "ifdef", "ifndef"):
            found.append([])
            opened.append((len(found) - 1, token.end))
        elif opened:
            opened.pop()
            if word == "endif":
                if opened:
                    opened[-1] = (opened[-1][0], token.end)
            else:
                found.append([])
                opened.append((len(found) - 1, token.end))
    return found


def _probe(text: str, number: int, branches: Sequence[Sequence[tuple[int, int]]]) -> str:
    """The directives alone, and in every branch a message."""
    messages = {
        pieces[0][0]: f'\n_Pragma("message(\\"nnkit {number} {index}\\")")\n'
        for index, pieces in enumerate(branches)
        if pieces
    }
    result, at = [], 0
    for token in tokens(text, tolerant=True):
        if token.kind == "directive":
            result += [blank(text[at : token.start]), token.text, messages.get(token.end, "")]
            at = token.end
    return "".join(result) + "\n"


def _without(text: str, pieces: Sequence[tuple[int, int]], keep_conditions: bool = False) -> str:
    result = text
    for start, end in pieces:
        result = result[:start] + blank(text[start:end]) + result[end:]
    return result


def _macros(files: Sequence[File]) -> Macros:
    """What the files define, all definitions of a name together."""
    bodies: dict[str, list[str]] = {}
    functional = set()
    for file in files:
        for token in tokens(file.text, tolerant=True):
            defined = _DEFINE.match(token.text) if token.kind == "directive" else None
            if defined is None:
                continue
            body = defined[3]
            if defined[2]:
                functional.add(defined[1])
                body = body.partition(")")[2]
            words = [inner.text for inner in tokens(body, tolerant=True) if inner.kind != "string"]
            bodies[defined[1]] = bodies.get(defined[1], []) + words
    return Macros(bodies, frozenset(functional))


def _read(file: File, macros: Macros, first: bool) -> None:
    try:
        file.tokens = list(tokens(file.text))
        file.items = Reader(file.tokens, macros).items()
    except UnreadableError as error:
        if first:
            raise CannotSeparateError(f"{file.path}:{error.line}: {error}") from None
        file.tokens, file.items = [], []  # Then the header stays as it is.


def _cut_at_first(file: File) -> None:
    """Leave out what the compiler would refuse: bodies of host functions, variables of the host."""
    for item in file.all_items():
        if item.marked or item.constant or (item.member and not (item.kind == "variable" and item.static)):
            continue
        if item.kind == "function":
            file.cuts[item.first] = "whole" if item.qualified or item.name == "main" else "body"
        elif item.kind == "variable":
            file.cuts[item.first] = "whole" if item.qualified or item.member else "poison"


def _cut_more(log: str, files: Mapping[str, File]) -> bool:
    """Leave out what the compiler complains of; False if there is nothing that may be."""
    progress = False
    for place, number in _places(log):
        file = files.get(place) or files.get(os.path.abspath(place))
        if file is not None and file.items:
            progress |= _cut_at(file, number)
    return progress


def _places(log: str) -> Iterator[tuple[str, int]]:
    """The files and lines of the errors, and of what made them in headers of others."""
    errors = list(_ERROR.finditer(log))
    for index, error in enumerate(errors):
        yield error[1], int(error[2])
        end = errors[index + 1].start() if index + 1 < len(errors) else len(log)
        for context in _CONTEXT.finditer(log, error.end(), end):
            yield (context[2] or error[1]), int(context[1])


def _cut_at(file: File, line: int) -> bool:
    """Leave out more of the innermost item at that line that may be; False if none may."""
    inside = [item for item in file.all_items() if _covers(file, item, line) and item.kind != "scope"]
    for item in reversed(inside):
        if item.marked:
            continue
        way = file.cuts.get(item.first)
        if item.member and item.kind != "function":
            continue  # Its class has another size without it.
        ways = ["poison", "whole"] if item.name and not item.member and not item.qualified else ["whole"]
        if item.kind == "function" and not item.qualified:
            ways.insert(0, "body")
        left = ways[ways.index(way) + 1 :] if way in ways else ways if way is None else []
        if left:
            file.cuts[item.first] = left[0]
            return True
    return False


def _covers(file: File, item: Item, line: int) -> bool:
    last = file.tokens[item.last]
    return file.tokens[item.first].line <= line <= last.line + last.text.count("\n")


def _separated(files: Sequence[File]) -> Separated:
    left_out: dict[str, str] = {}
    texts = []
    for file in files:
        for item in file.all_items():
            if item.first in file.cuts and item.name:
                left_out.setdefault(item.name, f"{file.path}:{file.line(item)}")
        texts.append(_cut_text(file))
    headers = {file.path: text for file, text in zip(files[1:], texts[1:], strict=True)}
    return Separated(texts[0], headers, left_out)


def _cut_text(file: File) -> str:
    pieces: list[tuple[int, int, str]] = []
    skip = -1
    for item in sorted(file.all_items(), key=lambda item: (item.first, -item.last)):
        if item.first <= skip:
            continue
        way = file.cuts.get(item.first) if item.kind != "scope" else None
        end = file.tokens[item.last].end
        head = file.tokens[item.first : item.body if item.kind == "function" else item.last]
        if way == "body":
            pieces.append((file.tokens[item.body].start, end, ";"))
        elif way is not None:
            pieces.append((file.tokens[item.first].start, end, _poison(item) if way == "poison" else ""))
            skip = item.last
            continue
        if not item.marked and item.kind in ("function", "declaration", "variable"):
            # NVRTC refuses the word; without it the function is one that no kernel calls.
            pieces += [(token.start, token.end, "") for token in head if token.text == "__host__"]
    result, at = [], 0
    directives = [token for token in file.tokens if token.kind == "directive"]
    for start, end, instead in sorted(pieces):
        result += [file.text[at:start], instead]
        kept = start
        for token in directives:
            if start <= token.start < end:
                result += [blank(file.text[kept : token.start]), token.text]
                kept = token.end
        rest = blank(file.text[kept:end])
        result.append(rest[len(instead) :] if kept == start and "\n" not in rest[: len(instead)] else rest)
        at = end
    return "".join(result) + file.text[at:]


def _poison(item: Item) -> str:
    """A declaration of the same name that nothing can use: a kernel that does is refused."""
    if item.kind in ("function", "declaration"):
        return f"void {item.name}(struct {_POISON});"
    if item.kind in ("class", "simple"):
        return f"struct {item.name};"
    return f"extern struct {_POISON} {item.name};"
