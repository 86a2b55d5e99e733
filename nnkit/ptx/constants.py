"""Constant expressions: C's operators on 64-bit integers. PTX ISA, "Constant Expressions"."""

from typing import NamedTuple

from nnkit.ptx.ir import Immediate, PtxSyntaxError
from nnkit.ptx.tokens import Cursor, floating, integer

DEEPEST = 50
"""Parentheses in each other; deeper text is refused, not followed until Python's stack ends."""

_PLAIN_ENDS = frozenset({",", ";", ")", "]", "}", ":", "("})
_LEVELS = [
    line.split() for line in ("||", "&&", "|", "^", "&", "== !=", "<= >= < >", "<< >>", "+ -", "* / %")
]
_MASK = (1 << 64) - 1


class _Number(NamedTuple):
    value: int
    unsigned: bool = False


def constant(cursor: Cursor) -> Immediate:
    """The constant expression that comes next: an integer, or a float with or without a sign.

    Raises PtxSyntaxError for what is none.
    """
    token = cursor.now
    if token.kind == "integer" and cursor.tokens[cursor.position + 1].text in _PLAIN_ENDS:
        cursor.position += 1
        return Immediate(integer(token.text, token.line))
    if token.kind == "float":
        return floating(cursor.next().text)
    if token.text == "-" and cursor.tokens[cursor.position + 1].kind == "float":
        cursor.position += 1
        digits = cursor.next()
        if digits.text[:2].lower() in ("0f", "0d"):
            raise PtxSyntaxError(f"{digits.text} holds its own sign: leave out the '-'", digits.line)
        return Immediate(floating(digits.text).value ^ 1 << 63, 64)
    return Immediate(_Expression(cursor).value)


def whole(cursor: Cursor) -> int:
    """A constant expression that is an integer."""
    line = cursor.now.line
    found = constant(cursor)
    if found.float_bits:
        raise PtxSyntaxError("expected an integer, found a float", line)
    return found.value


class _Expression:
    """One expression, by precedence climbing."""

    def __init__(self, cursor: Cursor):
        self.cursor = cursor
        self.depth = 0
        self.value = self.choice().value

    def choice(self) -> _Number:
        """a ? b : c"""
        self.depth += 1
        if self.depth > DEEPEST:
            raise PtxSyntaxError("a constant expression is nested too deeply", self.cursor.now.line)
        condition = self.binary(0)
        if self.cursor.take("?"):
            first = self.choice()
            self.cursor.expect(":")
            second = self.choice()
            condition = first if condition.value else second
        self.depth -= 1
        return condition

    def operator(self, level: int) -> str:
        """The operator of that level that comes next, stepped past; "" if none does."""
        cursor = self.cursor
        first, second = cursor.now.text, cursor.tokens[min(cursor.position + 1, len(cursor.tokens) - 1)].text
        pair = first + second
        known = pair in ("||", "&&", "==", "!=", "<=", ">=", "<<", ">>")
        found = pair if known else first
        if found not in _LEVELS[level] or cursor.now.kind != "mark":
            return ""
        cursor.position += len(found)
        return found

    def binary(self, level: int) -> _Number:
        if level == len(_LEVELS):
            return self.unary()
        left = self.binary(level + 1)
        while operator := self.operator(level):
            line = self.cursor.now.line
            left = _combined(operator, left, self.binary(level + 1), line)
        return left

    def unary(self) -> _Number:
        signs = []
        while self.cursor.now.text in ("-", "+", "!", "~") and self.cursor.now.kind == "mark":
            signs.append(self.cursor.next().text)
        number = self.primary()
        for sign in reversed(signs):
            value = number.value
            value = {"-": -value, "+": value, "!": int(not value), "~": ~value}[sign]
            number = _wrapped(value, number.unsigned)
        return number

    def primary(self) -> _Number:
        cursor = self.cursor
        token = cursor.next()
        if token.kind == "integer":
            value = integer(token.text, token.line)
            return _Number(value, token.text.endswith("U") or value >> 63 > 0)
        if token.text == "WARP_SZ":
            return _Number(32)
        if token.text == "(" and token.kind == "mark":
            if cursor.now.text in (".s64", ".u64"):
                unsigned = cursor.next().text == ".u64"
                cursor.expect(")")
                return _wrapped(self.unary().value, unsigned)
            inside = self.choice()
            cursor.expect(")")
            return inside
        raise PtxSyntaxError(f"expected a number, found {token.text or 'the end of the text'!r}", token.line)


def _wrapped(value: int, unsigned: bool) -> _Number:
    value &= _MASK
    return _Number(value if unsigned or not value >> 63 else value - (1 << 64), unsigned)


def _combined(operator: str, a: _Number, b: _Number, line: int) -> _Number:
    unsigned = a.unsigned or b.unsigned
    x, y = _wrapped(a.value, unsigned).value, _wrapped(b.value, unsigned).value
    match operator:
        case "||" | "&&":
            return _Number(int(bool(x and y) if operator == "&&" else bool(x or y)))
        case "==" | "!=" | "<=" | ">=" | "<" | ">":
            holds = {"==": x == y, "!=": x != y, "<=": x <= y, ">=": x >= y, "<": x < y, ">": x > y}
            return _Number(int(holds[operator]))
        case "<<" | ">>":
            by = b.value & 63
            return _wrapped(a.value << by if operator == "<<" else a.value >> by, a.unsigned)
        case "/" | "%":
            if y == 0:
                raise PtxSyntaxError("a division by zero in a constant expression", line)
            quotient = abs(x) // abs(y) * (-1 if (x < 0) != (y < 0) else 1)
            return _wrapped(quotient if operator == "/" else x - quotient * y, unsigned)
    plain = {"+": x + y, "-": x - y, "*": x * y, "|": x | y, "^": x ^ y, "&": x & y}
    return _wrapped(plain[operator], unsigned)
