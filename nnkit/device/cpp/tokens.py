"""The tokens of a C++ text, with comments, strings, raw strings and directives read as the language says."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""
    (?P<space> (?: [ \t\r\n\f\v] | \\\r?\n )+ )
  | (?P<comment> // (?: \\\r?\n | [^\n] )* | /\* .*? \*/ )
  | (?P<raw> (?: u8 | [uUL] )? R"(?P<mark>[^()\\\s"]{0,16})\( .*? \)(?P=mark)" )
  | (?P<string> (?: u8 | [uUL] )? "(?: \\\r\n | \\. | [^"\\\n] )*" )
  | (?P<char> (?: u8 | [uUL] )? '(?: \\. | [^'\\\n] )+' )
  | (?P<number> \.?\d (?: [eEpP][+-] | '?[\w.] )* )
  | (?P<word> [^\W\d] [\w$]* | \$[\w$]* )
  | (?P<mark1> :: | -> | . )
    """,
    re.VERBOSE | re.DOTALL,
)
_DIRECTIVE_REST = re.compile(
    r"""
    (?: \\\r?\n | /\* .*? \*/ | // (?: \\\r?\n | [^\n] )*
      | " (?: \\\r\n | \\. | [^"\\\n] )* " | ' (?: \\. | [^'\\\n] )* ' | [^\n] )*
    """,
    re.VERBOSE | re.DOTALL,
)
_SPLICE = re.compile(r"(?:\\\r?\n)+")
_DIGRAPHS = ("<%", "%>", "<:", ":>", "%:")


class UnreadableError(Exception):
    """A text that cannot be read for certain; its message says why, `line` where."""

    def __init__(self, line: int, why: str):
        super().__init__(why)
        self.line = line


@dataclass(frozen=True, slots=True)
class Token:
    """One token; `kind` is word, number, string, char, mark or directive; `start` and `end` are places."""

    kind: str
    text: str
    start: int
    end: int
    line: int


def tokens(text: str, tolerant: bool = False) -> Iterator[Token]:
    """The tokens but for comments and blanks; a directive is one token, with its continuation lines.

    Raises UnreadableError for a quote that does not end and for digraphs, unless `tolerant`: text that a
    condition leaves out may hold anything.
    """
    at, line, fresh = 0, 1, True  # `fresh`: nothing but blanks stands before on this line.
    while at < len(text):
        if fresh and text[at] == "#":
            rest = _DIRECTIVE_REST.match(text, at)
            end = rest.end() if rest else len(text)
            yield Token("directive", text[at:end], at, end, line)
            line += text.count("\n", at, end)
            at = end
            continue
        found = _TOKEN.match(text, at)
        assert found is not None
        kind, spelled = str(found.lastgroup), found[0]
        kind = {"mark": "raw", "mark1": "mark", "raw": "string"}.get(kind, kind)
        kind = "string" if kind == "raw" else kind
        if kind == "space":
            fresh = fresh or "\n" in _SPLICE.sub("", spelled)
            if not tolerant and _SPLICE.fullmatch(spelled):
                _check_splice(text, at, found.end(), line)
        elif kind == "comment":
            pass  # No end of the line, even if there is one within.
        else:
            fresh = False
            if not tolerant:
                _check(text, at, line, spelled)
            yield Token(kind, spelled, at, found.end(), line)
        line += spelled.count("\n")
        at = found.end()


def _check(text: str, at: int, line: int, spelled: str) -> None:
    if spelled in ("'", '"'):
        raise UnreadableError(line, f"a {spelled} that nothing ends")
    if spelled == "/" and text.startswith("/*", at):
        raise UnreadableError(line, "a comment that nothing ends")
    if spelled in "<%:" and text[at : at + 2] in _DIGRAPHS and text[at : at + 3] != "<::":
        raise UnreadableError(line, "a digraph")
    if spelled == "\\":
        raise UnreadableError(line, "a backslash that stands alone")


def _check_splice(text: str, start: int, end: int, line: int) -> None:
    """A line that goes on in the next one, with no blank in between, may cut a token in two."""
    sides = text[start - 1 : start] + text[end : end + 1]
    if len(sides) == 2 and not any(side.isspace() or side in ",;()[]{}" for side in sides):
        raise UnreadableError(line, "a line that goes on in the next one in the middle of a word")


def blank(text: str) -> str:
    """As many lines and columns of nothing."""
    return re.sub(r"[^\n\r]", " ", text)


def with_comments(text: str, changed: Callable[[str], str]) -> str:
    """The text with each comment changed, those at the end of directives too."""

    def within(part: str) -> str:
        return _TOKEN.sub(lambda found: changed(found[0]) if found.lastgroup == "comment" else found[0], part)

    parts, end = [], 0
    for token in tokens(text, tolerant=True):
        parts.append(within(text[end : token.start]))
        parts.append(within(token.text) if token.kind == "directive" else token.text)
        end = token.end
    return "".join([*parts, within(text[end:])])
