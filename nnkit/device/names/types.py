"""What the types and the constants of a CUDA source are, where its text alone tells.

Follows `typedef`, `using` and `#define`. A name that the text defines more than once, in namespaces or under
conditions, may be any of these; one that it does not define is not known.
"""

import ast
import operator
import re
from collections import defaultdict
from collections.abc import Callable, Sequence

from nnkit.device.source.headers import option_values

SCALARS = {
    "float": "f4",
    "double": "f8",
    "bool": "?",
    "char": "i1",
    "signed char": "i1",
    "unsigned char": "u1",
    "short": "i2",
    "unsigned short": "u2",
    "int": "i4",
    "signed": "i4",
    "signed int": "i4",
    "unsigned": "u4",
    "unsigned int": "u4",
    "long": "i8",
    "unsigned long": "u8",
    "long long": "i8",
    "unsigned long long": "u8",
    "size_t": "u8",
    "half": "f2",
    "__half": "f2",
    **{f"{sign}int{bits}_t": f"{sign or 'i'}{bits // 8}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
"""NumPy's codes."""

_VECTORS = {
    **{"float": "f4", "double": "f8", "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2"},
    **{"int": "i4", "uint": "u4", "long": "i8", "ulong": "u8", "longlong": "i8", "ulonglong": "u8"},
}
Scalar = tuple[str, tuple[int, ...]]
"""NumPy's code, and the axes of a vector."""

_NOISE = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.DOTALL)
_DIRECTIVE = re.compile(r"^[ \t]*#(?:\\\r?\n|[^\n])*", re.MULTILINE)
_DEFINE = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)[ \t]+([^\n\\]+)$", re.MULTILINE)
_ALIAS = re.compile(
    r"\btypedef\s+(?P<old>[\w:\s]+?)\s+(?P<name>\w+)\s*;|\busing\s+(?P<new>\w+)\s*=\s*(?P<of>[\w:\s]+?)\s*;"
)
_CONSTANT = re.compile(r"\b(?:const|constexpr)\b[\w:\s]*?\s(\w+)\s*(?:=\s*([^;,{}]+)|\{\s*([^;,{}]+)\})")
_ENUM = re.compile(r"\benum\b[^{};()]*\{([^{}]*)\}")
_SUFFIX = re.compile(r"\b(0[xX][0-9a-fA-F]+|\d+)[uUlL]+\b")
_OCTAL = re.compile(r"\b0(?=[0-7]+\b)")
_DEEPEST = 16
"""How many names may stand for names."""

_OPERATORS: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
}
_LARGEST = 1 << 40


class TypeNames:
    """The names that one source gives to types and to whole numbers."""

    def __init__(self, text: str, options: Sequence[str] = ()):
        """`options` are the compiler's: what they define counts, whatever the text says."""
        self.text = _NOISE.sub(lambda noise: " " if noise[0][0] != '"' else '""', text)
        """The source without comments, and with nothing in its strings."""
        self.code = _DIRECTIVE.sub("", self.text)
        """The same without its directives."""
        self._meanings: dict[str, set[str]] = defaultdict(set)
        given = [option.partition("=") for option in option_values(options, "-D", "--define-macro")]
        defined = {name.strip(): {body if equals else "1"} for name, equals, body in given}
        for name, body in _DEFINE.findall(self.text):
            self._meanings[name].add(body.strip())
        self._meanings |= defined
        for found in _ALIAS.finditer(self.code):
            self._meanings[found["name"] or found["new"]].add(found["old"] or found["of"])
        for name, value, braced in _CONSTANT.findall(self.code):
            self._meanings[name].add((value or braced).strip())
        for members in _ENUM.findall(self.code):
            before = "-1"
            for name, value in re.findall(r"(\w+)\s*(?:=([^,]+))?", members):
                before = value.strip() or f"({before}) + 1"
                self._meanings[name].add(before)

    def types(self, written: str, depth: int = 0) -> set[Scalar | None]:
        """What a type may be, as it is written; None stands for one that is not a number or a vector."""
        name = _plain(written)
        if vector := re.fullmatch(r"([a-z]+)([1-4])", name):
            if code := _VECTORS.get(vector[1]):
                return {(code, (int(vector[2]),) if vector[2] != "1" else ())}
        elif name in SCALARS:
            return {(SCALARS[name], ())}
        meanings = self._meanings.get(name.rpartition("::")[2], set())
        if not meanings or depth > _DEEPEST:
            return {None}
        return set().union(*(self.types(meaning, depth + 1) for meaning in meanings))

    def number(self, expression: str, depth: int = 0) -> int | None:
        """The value of a constant expression of whole numbers; None where the text does not tell."""
        text = _OCTAL.sub("0o", _SUFFIX.sub(r"\1", expression)).replace("/", "//").strip()
        try:
            return self._value(ast.parse(text, mode="eval").body, depth)
        except (SyntaxError, ValueError, ArithmeticError, RecursionError):
            return None

    def _value(self, node: ast.AST, depth: int) -> int | None:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return node.value
        if isinstance(node, ast.Name) and depth <= _DEEPEST:
            values = {self.number(body, depth + 1) for body in self._meanings.get(node.id, ())}
            return values.pop() if len(values) == 1 else None
        if isinstance(node, ast.BinOp) and (calculate := _OPERATORS.get(type(node.op))):
            left, right = self._value(node.left, depth), self._value(node.right, depth)
            # C divides towards zero.
            if left is None or right is None or min(left, right) < 0 or max(left, right) > _LARGEST:
                return None
            if isinstance(node.op, ast.LShift | ast.RShift) and right > 40:
                return None
            return calculate(left, right)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            inner = self._value(node.operand, depth)
            return None if inner is None else -inner
        return None


def _plain(written: str) -> str:
    """A type without what says nothing of its values."""
    words = [word for word in written.split() if word not in ("const", "volatile", "static", "typename")]
    name = " ".join(words).removeprefix("::").removeprefix("std::")
    return re.sub(r"^(unsigned |)(short|long|long long) int$", r"\1\2", name)
