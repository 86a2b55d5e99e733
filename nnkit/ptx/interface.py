"""What a module declares, read without its bodies: for whoever loads it and does not ask what its code does.

Heads of declarations are read as the parser reads them; what stands in braces is stepped over as text, so
this takes milliseconds where parsing takes seconds. It is also lenient, as the parser must not be: what is
not understood is passed over, for a driver's assembler may know more of the language.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from nnkit.ptx.declarations import LINKAGE, attribute, variables
from nnkit.ptx.ir import PtxError, PtxSyntaxError, Variable
from nnkit.ptx.tokens import Cursor, Token, tokenise, words

_FUNCTIONS = frozenset({".entry", ".func"})
_VARIABLES = frozenset({".global", ".const"})

# A brace or a semicolon, and whatever stands before it; in strings and comments they mean nothing.
_NOISE = r'"(?:[^"\\]|\\.)*"|//[^\n]*|/\*.*?\*/'
_STRINGS_AND_COMMENTS = re.compile(_NOISE, re.DOTALL)
_TO_BRACE = re.compile(rf'(?:[^"/{{}}]+|{_NOISE}|["/])*([{{}}]?)', re.DOTALL)
_TO_END = re.compile(rf'(?:[^"/{{}};]+|{_NOISE}|["/])*([{{}};]?)', re.DOTALL)


@dataclass(frozen=True)
class Declaration:
    """A function or a variable of a module."""

    kind: str
    """".entry", ".func", ".global" or ".const"."""
    name: str
    is_external: bool
    """Whether it is defined somewhere else."""
    rest: tuple[Token, ...]
    """What stands behind the name, up to the body or the initial value."""
    text: str
    """The whole statement, from its linkage to its end."""

    def parameters(self) -> tuple[Variable, ...]:
        """Those of a kernel. Raises PtxError, which quotes the one that is not understood."""
        return tuple(_parameter(tokens) for tokens in _in_parentheses(self.rest))

    def blocks(self, *directives: str) -> list[tuple[int, int, int]]:
        """The blocks that these directives give, ".maxntid" or ".reqntid": x, y and z, 1 if missing."""
        found, cursor = [], Cursor([*self.rest, _END])
        while cursor.now.kind != "end":
            if cursor.next().text in directives:
                axes = [cursor.number()]
                while cursor.take(","):
                    axes.append(cursor.number())
                x, y, z = (*axes, 1, 1)[:3]
                found.append((x, y, z))
        return found

    @cached_property
    def words(self) -> frozenset[str]:
        """Every name, directive and instruction in the statement, its body among it."""
        return frozenset(words(self.text))


class Interface:
    """The functions and variables that a module's text declares."""

    def __init__(self, text: str):
        self.declarations = tuple(_declarations(text))
        """All of them, in their order."""

    @property
    def kernels(self) -> dict[str, Declaration]:
        """Every .entry, by its name."""
        return {found.name: found for found in self.declarations if found.kind == ".entry"}

    @property
    def functions(self) -> tuple[Declaration, ...]:
        """Every .func."""
        return tuple(found for found in self.declarations if found.kind == ".func")

    @property
    def variables(self) -> tuple[Declaration, ...]:
        """Every .global and .const."""
        return tuple(found for found in self.declarations if found.kind in _VARIABLES)


_END = Token("end", "", 0)


def _declarations(text: str) -> Iterator[Declaration]:
    for begin, end, head in _statements(text):
        try:
            tokens = tokenise(head)
            at = _first(tokens, _FUNCTIONS)
            at = _first(tokens, _VARIABLES) if at is None else at
            if at is None:
                continue
            start = at
            while start and tokens[start - 1].text in LINKAGE:
                start -= 1
            is_external = any(token.text == ".extern" for token in tokens[start:at])
            whole = text[_place(text, begin, tokens[start]) : end]
            kind, cursor = tokens[at].text, Cursor(tokens)
            cursor.position = at + 1
            named = _function(cursor) if kind in _FUNCTIONS else _variables(cursor)
            for name, rest in named:
                yield Declaration(kind, name, is_external, rest, whole)
        except PtxError:
            continue


def _statements(text: str) -> Iterator[tuple[int, int, str]]:
    """Where each statement begins and ends, and its text without what stands in braces.

    What ends with its line, such as .version and .file, counts to the statement behind it.
    """
    begin = at = 0
    head = ""
    while at < len(text):
        found = _TO_END.match(text, at)
        assert found is not None
        at, mark = found.end(), found[1]
        head += found[0].removesuffix("{")
        if mark == "{":
            at = _behind_braces(text, at)
            if _STRINGS_AND_COMMENTS.sub("", head).rstrip().endswith("="):
                # An initial value: the statement goes on.
                continue
        yield begin, at, head
        begin, head = at, ""


def _behind_braces(text: str, at: int) -> int:
    depth = 1
    while depth and at < len(text):
        found = _TO_BRACE.match(text, at)
        assert found is not None
        at = found.end()
        depth += {"{": 1, "}": -1}.get(found[1], 0)
    return at


def _first(tokens: list[Token], directives: frozenset[str]) -> int | None:
    return next((at for at, token in enumerate(tokens) if token.text in directives), None)


def _place(text: str, begin: int, token: Token) -> int:
    """Where a token of the statement that begins there stands."""
    for _ in range(token.line - 1):
        begin = text.index("\n", begin) + 1
    return text.index(token.text, begin)


def _function(cursor: Cursor) -> list[tuple[str, tuple[Token, ...]]]:
    """Its name, and what stands behind that."""
    while cursor.now.text in (".attribute", ".noreturn"):
        if cursor.next().text == ".attribute":
            attribute(cursor)
    if cursor.take("("):
        cursor.skip_to(")")
        cursor.expect(")")
    return [(cursor.name(), tuple(cursor.tokens[cursor.position : -1]))]


def _variables(cursor: Cursor) -> list[tuple[str, tuple[Token, ...]]]:
    """As `_function`, of each of those that a statement declares."""
    while cursor.now.text.startswith("."):
        directive = cursor.next().text
        if directive == ".attribute":
            attribute(cursor)
        elif directive == ".align":
            cursor.number()
    found = []
    while cursor.now.kind == "word":
        name, start = cursor.name(), cursor.position
        cursor.skip_to(",", "=", ";")
        found.append((name, tuple(cursor.tokens[start : cursor.position])))
        cursor.skip_to(",", ";")
        cursor.take(",")
    return found


def _in_parentheses(tokens: tuple[Token, ...]) -> Iterator[list[Token]]:
    """The tokens between commas of a list that comes first; none if there is no list."""
    if not tokens or tokens[0].text != "(":
        return
    part: list[Token] = []
    for token in tokens[1:]:
        if token.text in (",", ")"):
            if part:
                yield part
            part = []
        else:
            part.append(token)
        if token.text == ")":
            return


def _parameter(tokens: list[Token]) -> Variable:
    cursor = Cursor([*tokens, _END])
    try:
        cursor.expect(".param")
        (found,) = variables(cursor, ".param")
        cursor.expect("")
    except PtxError:
        written = " ".join(token.text for token in tokens)
        raise PtxSyntaxError(f"the parameter {written!r} is not understood") from None
    return found
