"""What the compiler says of a text's conditions and of macros that are defined elsewhere.

The text's directives alone are compiled, with messages between them.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from nnkit.device.cpp.macros import MARKS
from nnkit.device.cpp.tokens import blank, tokens

Compile = Callable[[str, Mapping[str, str]], tuple[bool, str]]
"""Compiles a text with these headers; says whether it went well, and the log."""

DEFINE = re.compile(r"#\s*define\s+(\w+)(\()?((?:\\\r?\n|[^\n])*)")

_CONDITION = re.compile(r"#\s*(ifdef|ifndef|if|elif|elifdef|elifndef|else|endif)\b")
_ACTIVE = re.compile(r'#pragma message: "nnkit (\d+) (\d+)"')
_MACRO = re.compile(r'#pragma message: "nnkit macro (\w+) (.*)"$', re.MULTILINE)
_ATTRIBUTE = re.compile(r"__attribute__\(\((\w+)\)\)")
_GUARD = "#error nnkit reads this condition otherwise than the compiler"
_TEXT = "nnkit_text_of"


class NotResolvedError(Exception):
    """The directives alone do not compile; the message is the compiler's."""


def resolve(
    main: str, own: Mapping[str, str], compiles: Compile
) -> tuple[str, dict[str, str], dict[str, str]]:
    """A text and its headers without what their conditions leave out, and macros' expansions.

    Those are of macros that neither the text nor its headers define: they come from options and from
    others' headers. Where a condition is decided otherwise later on, that is an error there.
    """
    texts = [main, *own.values()]
    branches = [_branches(text) for text in texts]
    probes = [
        _probe(text, number, found) for number, (text, found) in enumerate(zip(texts, branches, strict=True))
    ]
    good, log = compiles(probes[0] + _questions(texts), dict(zip(own, probes[1:], strict=True)))
    if not good and "catastrophic error" in log:
        raise NotResolvedError(next(line for line in log.splitlines() if "catastrophic error" in line))
    active = {(int(number), int(branch)) for number, branch in _ACTIVE.findall(log)}
    for number, found in enumerate(branches):
        out = [
            piece for index, pieces in enumerate(found) if (number, index) not in active for piece in pieces
        ]
        for start, end in sorted(out, reverse=True):
            texts[number] = texts[number][:start] + _nothing(texts[number][start:end]) + texts[number][end:]
    expansions = {
        name: _ATTRIBUTE.sub(r"__\1__", text.replace('\\"', '"')) for name, text in _MACRO.findall(log)
    }
    return texts[0], dict(zip(own, texts[1:], strict=True)), expansions


def directives(text: str) -> Iterator[str]:
    """The directives of a text, each with what stands before it blanked, and the end."""
    at = 0
    for token in tokens(text, tolerant=True):
        if token.kind == "directive":
            yield blank(text[at : token.start]) + token.text
            at = token.end
    yield "\n"


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
        pieces[0][0]: f'_Pragma("message(\\"nnkit {number} {index}\\")")'
        for index, pieces in enumerate(branches)
        if pieces
    }
    result, at = [], 0
    for piece in directives(text):
        message = messages.get(at, "") if at else ""
        blanks = piece[: len(piece) - len(piece.lstrip())]
        if blanks.count("\n") > 1:
            # Within a line that is there, so that __LINE__ stays what it is.
            first, rest = piece.split("\n", 1)
            result.append(f"{first}\n{message}{rest}")
        else:
            result.append(f"\n{message}{piece}" if message else piece)
        at += len(piece)
    return "".join(result)


def _questions(texts: Sequence[str]) -> str:
    """Asks what every word stands for that is perhaps a macro of somebody else's."""
    words: dict[str, None] = {}
    own = set(MARKS)
    for text in texts:
        for token in tokens(text, tolerant=True):
            if token.kind == "word":
                words[token.text] = None
            elif token.kind == "directive" and (defined := DEFINE.match(token.text)):
                own.add(defined[1])
                words |= dict.fromkeys(re.findall(r"\b[^\W\d]\w*", defined[3]))
    asked = [word for word in words if word not in own and re.fullmatch(r"\w+", word, re.ASCII)]
    return f"\n#define {_TEXT}_(...) #__VA_ARGS__\n#define {_TEXT}(...) {_TEXT}_(__VA_ARGS__)\n" + "".join(
        f'#ifdef {word}\n#pragma message("nnkit macro {word} " {_TEXT}({word}))\n#endif\n' for word in asked
    )


def _nothing(piece: str) -> str:
    """As many lines; an error if they are compiled nevertheless."""
    result = blank(piece)
    first, *rest = result.split("\n")
    return "\n".join([first, _GUARD, *rest[1:]]) if len(rest) > 1 else result
