"""The names that a C++ declaration declares."""

from itertools import pairwise
from typing import Protocol

from nnkit.device.cpp.macros import OPEN, Macros
from nnkit.device.cpp.tokens import Token

WITH_ARGUMENT = frozenset(
    (
        *("__launch_bounds__", "__attribute__", "__declspec", "alignas", "noexcept", "decltype", "explicit"),
        *("throw", "__align__", "__builtin_align__", "requires", "__typeof__", "typeof", "__maxnreg__"),
        *("__cluster_dims__", "__block_size__", "_Pragma"),
    )
)
"""A parenthesis behind these belongs to no declarator."""


class Text(Protocol):
    """Tokens whose brackets are matched; `nnkit.device.cpp.items.Reader` is one."""

    tokens: list[Token]
    macros: Macros
    partner: dict[int, int]

    def text(self, index: int) -> str:
        """The token, "" for a directive or a string."""

    def angle(self, at: int, end: int) -> int:
        """Behind the `>` that closes the `<` here; `at` itself if none does."""


def outside(text: Text, first: int, end: int) -> list[int]:
    """The tokens outside of all brackets; of each pair the opening one alone."""
    found, at = [], first
    while at < end:
        word = text.text(at)
        if word:
            found.append(at)
        if word in OPEN:
            at = text.partner[at] + 1
        elif word == "<" and at > first and text.tokens[at - 1].kind == "word":
            at = max(text.angle(at, end), at + 1)
        else:
            at += 1
    return found


def declarators(text: Text, first: int, end: int, typed: bool = False) -> list[str]:
    """The names in `int a = 1, *b, (*c)(int)`; `typed`: the type stands before and is left out."""
    names: list[str] = []
    words, inner, open_ = ["", ""] if typed else [""], "", True

    def finish() -> None:
        if inner or len(words) > 2:
            names.append(inner or words[-1])

    for at in outside(text, first, end):
        word = text.text(at)
        if word == ",":
            finish()
            words, inner, open_ = ["", ""], "", True
        elif word in ("=", ":"):
            open_ = False
        elif word in ("(", "[", "{") and open_:
            if word == "(" and (words[-1] in WITH_ARGUMENT or words[-1] in text.macros.functional):
                if words[-1] not in ("decltype", "typeof", "__typeof__"):
                    words.pop()
            elif word == "(" and (pointer := _pointer(text, at)):
                inner, open_ = pointer, False
            elif len(words) > 2:
                open_ = False
        elif text.tokens[at].kind == "word" and open_:
            words.append(word)
    finish()
    return names


def _pointer(text: Text, at: int) -> str:
    """`name` in `(*name)`, `(&name)[3]`, `(C::*name)(int)`; "" where no such thing stands."""
    words: list[str] = []
    pointer = False
    for index in range(at + 1, text.partner[at]):
        word = text.text(index)
        if word in OPEN:
            # `(*name[3])(int)` is an array, `(*name(int))(int)` a function.
            return words[-1] if words and pointer and word == "[" else ""
        pointer = pointer or word in ("*", "&")
        if text.tokens[index].kind == "word":
            words.append(word)
    return words[-1] if words and pointer else ""


def of_simple(text: Text, first: int, end: int) -> list[str]:
    """The names of `using a = b`, `using b::a`, `typedef b a, *c`, `namespace a = b`, `concept a = b`."""
    found = outside(text, first, end)
    words = [text.text(at) for at in found]
    if words[0] == "typedef":
        # The class itself may have another name and be defined here.
        start = max((text.partner[at] + 1 for at in found if text.text(at) == "{"), default=found[0])
        return declarators(text, start, end, typed=start > found[0])
    if words[0] in ("using", "namespace", "concept") and words[1:2] != ["namespace"]:
        if "=" in words:
            return words[1:2]
        if words[0] == "using":
            ends = [index for index, word in enumerate([*words, ","]) if word == ","]
            return [words[index - 1] for index in ends]
    return []


def enumerators(text: Text, first: int, end: int) -> set[str]:
    """The names within the braces of an enumeration."""
    brace = next((at for at in range(first, end) if text.text(at) == "{"), None)
    if brace is None:
        return set()
    words = [",", *(text.text(at) for at in outside(text, brace + 1, text.partner[brace]))]
    return {behind for word, behind in pairwise(words) if word == ","}


def tags(text: Text, first: int, end: int) -> set[str]:
    """The words behind class, struct, union and enum."""
    words = [text.text(at) for at in range(first, end)]
    keywords = {"class", "struct", "union", "enum"}
    return {behind for word, behind in pairwise(words) if word in keywords}
