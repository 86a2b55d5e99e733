"""PTX text to tokens, and the values of literals."""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from nnkit.ptx.ir import Immediate, PtxError, PtxSyntaxError

_PATTERN = re.compile(
    r"""
    (?:[ \t\r\f\v]|//[^\n]*)*
    (?:(?P<newline>\n)
  | (?P<word>[%$_.]?[A-Za-z_$%](?:[\w$.]|::)*|[%_$][\w$.]+|_)
  | (?P<float>0[fF][0-9a-fA-F]{8}|0[dD][0-9a-fA-F]{16}|(?:\d+\.\d*|\.\d+)(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+)
  | (?P<integer>0[xX][0-9a-fA-F]+U?|0[bB][01]+U?|\d+U?)
  | (?P<comment>/\*.*?\*/)
  | (?P<mark>[{}()\[\],;:@!|+\-<>=*/~?&^%])
  | (?P<string>"(?:[^"\\]|\\.)*")
  | (?P<end>\Z)
  | (?P<wrong>.))
    """,
    re.VERBOSE | re.DOTALL,
)


class Token(NamedTuple):
    """A piece of text with its kind ("word", "integer", "float", "string", "mark" or "end") and its line."""

    kind: str
    text: str
    line: int


def tokenise(text: str) -> list[Token]:
    """All tokens of the text, with an "end" behind them. Raises PtxError for a stray character."""
    tokens: list[Token] = []
    add = tokens.append
    line = 1
    for found in _PATTERN.finditer(text):
        kind = found.lastgroup or ""
        if kind == "newline":
            line += 1
            continue
        piece = found.group(kind)
        if kind == "word" and piece[0] == "." and "." in piece[1:]:
            # Directives may stand without blanks between them: .reg.b32
            for part in piece[1:].split("."):
                add(Token(kind, f".{part}", line))
        elif kind == "wrong":
            raise PtxSyntaxError(f"unexpected character {piece!r}", line)
        elif kind in ("comment", "string"):
            if kind == "string":
                add(Token(kind, piece, line))
            line += piece.count("\n")
        elif kind != "end":
            add(Token(kind, piece, line))
    add(Token("end", "", line))
    return tokens


def first_word(text: str) -> str:
    """What a text begins with, behind blanks and comments: ".version" in PTX; "" for what is no word."""
    for found in _PATTERN.finditer(text):
        if found.lastgroup not in ("newline", "comment"):
            return found.group(found.lastgroup) if found.lastgroup == "word" else ""
    return ""


def words(text: str) -> Iterator[str]:
    """The names, directives and instructions of a text, which may hold anything besides."""
    for found in _PATTERN.finditer(text):
        if found.lastgroup == "word":
            yield found["word"]


def integer(text: str, line: int = 0) -> int:
    """The value of an integer literal: decimal, hexadecimal, octal or binary, with or without U."""
    digits = text.rstrip("U")
    if len(digits) > 1 and digits[0] == "0" and digits[1].isdigit():
        if set(digits) & {"8", "9"}:
            raise PtxSyntaxError(f"{text!r} is no octal number", line)
        value = int(digits, 8) if len(digits) < 30 else 1 << 64
    else:
        # Python refuses to read thousands of digits.
        value = int(digits, 0) if len(digits) < 100 else 1 << 64
    if value >> 64:
        raise PtxError(f"the constant {text[:40]} does not fit 64 bits", line)
    return value


def floating(text: str) -> Immediate:
    """The bit pattern of a float literal: 0fXXXXXXXX, 0dXXXXXXXXXXXXXXXX or decimal (a double)."""
    if text[:2] in ("0f", "0F"):
        return Immediate(int(text[2:], 16), 32)
    if text[:2] in ("0d", "0D"):
        return Immediate(int(text[2:], 16), 64)
    return Immediate(struct.unpack("<Q", struct.pack("<d", float(text)))[0], 64)


def as_float(bits: Immediate, size: int) -> int:
    """The bit pattern of a float literal as a float of `size` bytes, rounded where it must be."""
    if bits.float_bits == 8 * size:
        return bits.value
    if bits.float_bits == 32:
        return int.from_bytes(
            struct.pack("<d", struct.unpack("<f", struct.pack("<I", bits.value))[0]), "little"
        )
    value = struct.unpack("<d", struct.pack("<Q", bits.value))[0]
    try:
        return int.from_bytes(struct.pack("<f", value), "little")
    except OverflowError:
        return 0xFF800000 if value < 0 else 0x7F800000


class Cursor:
    """A place in a list of tokens, and the ways to go on from it."""

    def __init__(self, tokens: list[Token]):
        self.tokens = tokens
        self.position = 0

    @property
    def now(self) -> Token:
        """The token here."""
        return self.tokens[self.position]

    def next(self) -> Token:
        """The token here; steps past it."""
        token = self.tokens[self.position]
        if token.kind != "end":
            self.position += 1
        return token

    def at(self, text: str) -> bool:
        """Whether this text comes next."""
        return self.tokens[self.position].text == text and self.now.kind != "string"

    def take(self, text: str) -> bool:
        """Step past this text if it comes next."""
        if self.at(text):
            self.position += 1
            return True
        return False

    def expect(self, text: str) -> None:
        """Step past this text; raises PtxSyntaxError where another stands."""
        token = self.next()
        if token.text != text or token.kind == "string":
            raise PtxSyntaxError(
                f"expected {text!r}, found {token.text or 'the end of the text'!r}", token.line
            )

    def word(self) -> str:
        """A name, a directive or an instruction with its modifiers."""
        token = self.next()
        if token.kind != "word":
            raise PtxSyntaxError(
                f"expected a name, found {token.text or 'the end of the text'!r}", token.line
            )
        return token.text

    def name(self) -> str:
        """A name that a declaration gives."""
        token = self.now
        text = self.word()
        if text == "_" or "." in text or ":" in text:
            raise PtxSyntaxError(f"expected a name, found {text!r}", token.line)
        return text

    def number(self) -> int:
        """A whole number without a sign."""
        token = self.next()
        if token.kind != "integer":
            raise PtxSyntaxError(f"expected an integer, found {token.text!r}", token.line)
        return integer(token.text, token.line)

    def skip_to(self, *ends: str) -> None:
        """Step to one of these texts."""
        while self.now.kind != "end" and self.now.text not in ends:
            self.next()

    def skip_braces(self) -> None:
        """Step past everything in the braces that come next."""
        self.expect("{")
        depth = 1
        while depth:
            token = self.next()
            if token.kind == "end":
                raise PtxSyntaxError("a brace is not closed", token.line)
            depth += (token.text == "{") - (token.text == "}")
