"""Readable names of kernels: what C++ compilers make of a name and its types, read backwards.

Syntax: the Itanium C++ ABI, section 5.1, as far as names of kernels need it. What is not understood stays as
it is. Types are spelled as in a source, with `const` in front; the type of the result is left out: that of a
kernel is always void.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache

_MANGLED = re.compile(r"\b_Z\w+")

_BUILTIN = {
    "v": "void",
    "w": "wchar_t",
    "b": "bool",
    "c": "char",
    "a": "signed char",
    "h": "unsigned char",
    "s": "short",
    "t": "unsigned short",
    "i": "int",
    "j": "unsigned int",
    "l": "long",
    "m": "unsigned long",
    "x": "long long",
    "y": "unsigned long long",
    "n": "__int128",
    "o": "unsigned __int128",
    "f": "float",
    "d": "double",
    "e": "long double",
    "g": "__float128",
    "z": "...",
}
_BUILTIN_D = {
    "n": "decltype(nullptr)",
    "i": "char32_t",
    "s": "char16_t",
    "u": "char8_t",
    "h": "half",
    "a": "auto",
}
_STANDARD = {
    "t": "std",
    "a": "std::allocator",
    "b": "std::basic_string",
    "s": "std::string",
    "i": "std::istream",
    "o": "std::ostream",
    "d": "std::iostream",
}
_OPERATORS = {
    "cl": "operator()",
    "ix": "operator[]",
    "pl": "operator+",
    "mi": "operator-",
    "ml": "operator*",
    "dv": "operator/",
    "lt": "operator<",
    "gt": "operator>",
    "eq": "operator==",
    "aS": "operator=",
}
_INTERNAL = re.compile(r"_GLOBAL__N_|_INTERNAL_|_NV_ANON_NAMESPACE")
_DEPTH = 64


class _NotUnderstoodError(Exception):
    pass


@dataclass(frozen=True)
class _Type:
    """A type, as the text before and behind the name that it would declare."""

    before: str
    behind: str = ""
    pack: "tuple[_Type, ...] | None" = None
    """What a parameter pack of a template stands for."""

    def __str__(self) -> str:
        return self.before + self.behind


@dataclass
class _Reader:
    """Reads a mangled name from left to right; substitutions are kept as the ABI counts them."""

    text: str
    at: int = 0
    seen: list[_Type] = field(default_factory=list)
    arguments: list[_Type] = field(default_factory=list)
    depth: int = 0

    def take(self, prefix: str) -> bool:
        if self.text.startswith(prefix, self.at):
            self.at += len(prefix)
            return True
        return False

    def need(self, prefix: str) -> None:
        if not self.take(prefix):
            raise _NotUnderstoodError

    def next(self) -> str:
        if self.at >= len(self.text):
            raise _NotUnderstoodError
        self.at += 1
        return self.text[self.at - 1]

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def number(self, digits: str = "0-9", base: int = 10) -> int:
        found = re.compile(f"[{digits}]+").match(self.text, self.at)
        if found is None:
            raise _NotUnderstoodError
        self.at = found.end()
        return int(found[0], base)

    def keep(self, item: _Type) -> _Type:
        self.seen.append(item)
        return item

    def encoding(self) -> str:
        """A function with its parameters."""
        name, templated = self.name()
        if templated:
            self.type()  # The result, which only templates name.
        parameters = []
        while self.at < len(self.text):
            parameters.append(str(self.type()))
        spelled = ", ".join(filter(None, parameters))
        return f"{name}({'' if spelled == 'void' else spelled})"

    def name(self) -> tuple[str, bool]:
        """A name, and whether it ends in template arguments."""
        if self.take("N"):
            return self.nested()
        if self.peek() == "Z":
            raise _NotUnderstoodError
        if self.peek() == "S" and self.text[self.at + 1 : self.at + 2] != "t":
            name = str(self.substitution())
        else:
            name = ("std::" if self.take("St") else "") + self.unqualified()
            if self.peek() == "I":
                self.keep(_Type(name))
        if self.peek() == "I":
            return name + self.template_arguments(), True
        return name, False

    def nested(self) -> tuple[str, bool]:
        while self.peek() in ("K", "V", "r", "R", "O"):
            self.at += 1
        name, templated = "", False
        while not self.take("E"):
            if self.peek() == "I":
                name, templated = name + self.template_arguments(), True
            elif self.peek() == "S" and not name:
                name = str(self.substitution())
                continue  # Counted already.
            elif self.peek() == "T":
                name, templated = str(self.template_parameter()), False
            else:
                name, templated = name + ("::" if name else "") + self.unqualified(), False
            if self.peek() != "E":
                self.keep(_Type(name))
        return name, templated

    def unqualified(self) -> str:
        self.take("L")  # Known in this file only.
        if self.peek().isdigit():
            length = self.number()
            word = self.text[self.at : self.at + length]
            self.at += length
            if len(word) < length:
                raise _NotUnderstoodError
            return "(anonymous namespace)" if _INTERNAL.match(word) else word
        operator = _OPERATORS.get(self.text[self.at : self.at + 2])
        if operator is None:
            raise _NotUnderstoodError
        self.at += 2
        return operator

    def substitution(self) -> _Type:
        self.need("S")
        if self.peek().islower():
            standard = _STANDARD.get(self.next())
            if standard is None:
                raise _NotUnderstoodError
            return _Type(standard)
        index = 0 if self.peek() == "_" else self.number("0-9A-Z", 36) + 1
        self.need("_")
        return self._of(self.seen, index)

    def template_parameter(self, keep: bool = True) -> _Type:
        self.need("T")
        index = 0 if self.peek() == "_" else self.number() + 1
        self.need("_")
        parameter = self._of(self.arguments, index)
        return self.keep(parameter) if keep else parameter

    @staticmethod
    def _of(items: list[_Type], index: int) -> _Type:
        if index >= len(items):
            raise _NotUnderstoodError
        return items[index]

    def template_arguments(self) -> str:
        self.need("I")
        arguments: list[_Type] = []
        while not self.take("E"):
            arguments.append(self.template_argument())
        self.arguments = arguments
        return f"<{', '.join(text for text in map(str, arguments) if text)}>"

    def template_argument(self) -> _Type:
        if self.take("J"):
            pack = []
            while not self.take("E"):
                pack.append(self.template_argument())
            return _Type(", ".join(map(str, pack)), pack=tuple(pack))
        if self.take("X"):
            # A parameter of the template, or the address of a function; other expressions are not understood.
            addressed = self.take("adL")
            if not addressed and self.peek() != "T":
                raise _NotUnderstoodError
            argument = self.literal() if addressed else self.template_parameter(keep=False)
            self.need("E")
            return argument
        return self.literal() if self.take("L") else self.type()

    def literal(self) -> _Type:
        if self.take("_Z"):
            reader = _Reader(self.text, self.at, self.seen)
            name, templated = reader.name()
            if templated:
                reader.type()
            while reader.peek() != "E":
                reader.type()
            self.at = reader.at + 1
            return _Type(f"&{name}")
        kind = str(self.type())
        found = re.compile(r"n?\d+").match(self.text, self.at)
        if found is None:
            raise _NotUnderstoodError
        self.at = found.end()
        self.need("E")
        value = found[0].replace("n", "-")
        if kind == "bool":
            return _Type("true" if value == "1" else "false")
        return _Type(value if kind in _BUILTIN.values() else f"({kind}){value}")

    def type(self) -> _Type:
        self.depth += 1
        if self.depth > _DEPTH:
            raise _NotUnderstoodError
        try:
            return self._type()
        finally:
            self.depth -= 1

    def _type(self) -> _Type:
        letter = self.peek()
        if letter in _BUILTIN:
            self.at += 1
            return _Type(_BUILTIN[letter])
        if letter in ("K", "V", "r"):
            return self.qualified()
        if letter in ("P", "R", "O"):
            self.at += 1
            inner, mark = self.type(), {"P": "*", "R": "&", "O": "&&"}[letter]
            if inner.behind.startswith(("(", "[")):
                return self.keep(_Type(f"{inner.before} ({mark}", f"){inner.behind}"))
            return self.keep(_Type(inner.before + mark, inner.behind))
        if letter == "F":
            return self.function()
        if letter == "A":
            self.at += 1
            count = "" if self.peek() == "_" else str(self.number())
            self.need("_")
            inner = self.type()
            return self.keep(_Type(inner.before, f"[{count}]{inner.behind}"))
        if letter == "T":
            parameter = self.template_parameter()
            if self.peek() == "I":
                return self.keep(_Type(f"{parameter}{self.inner_arguments()}"))
            return parameter
        if letter == "u":
            self.at += 1
            return self.keep(_Type(self.unqualified()))
        if letter == "D":
            return self.vendor()
        if letter == "S" and self.text[self.at + 1 : self.at + 2] != "t":
            base = self.substitution()
            return self.keep(_Type(str(base) + self.inner_arguments())) if self.peek() == "I" else base
        return self.keep(_Type(self.class_name()))

    def class_name(self) -> str:
        """The name of a class; its template arguments are not those of the function."""
        outer = self.arguments
        name, _ = self.name()
        self.arguments = outer
        return name

    def inner_arguments(self) -> str:
        outer = self.arguments
        spelled = self.template_arguments()
        self.arguments = outer
        return spelled

    def qualified(self) -> _Type:
        words = {"K": "const", "V": "volatile", "r": "__restrict__"}
        found = []
        while self.peek() in words:
            found.append(words[self.next()])
        inner = self.type()
        spelled = " ".join(reversed(found))
        if inner.before.endswith(("*", "&")):
            return self.keep(_Type(f"{inner.before} {spelled}", inner.behind))
        return self.keep(_Type(f"{spelled} {inner.before}", inner.behind))

    def function(self) -> _Type:
        self.need("F")
        self.take("Y")
        result = self.type()
        parameters = []
        while not self.take("E"):
            parameters.append(str(self.type()))
        spelled = ", ".join(parameters)
        return self.keep(_Type(str(result), f"({'' if spelled == 'void' else spelled})"))

    def expansion(self) -> _Type:
        """The pattern once for every type of the pack in it."""
        start, counted, arguments = self.at, len(self.seen), self.arguments
        packs = [argument.pack for argument in arguments if argument.pack is not None]
        if len(packs) != 1:
            raise _NotUnderstoodError
        end, spelled, known = self.at, [], list(self.seen)
        for member in packs[0] or (_Type(""),):
            self.at, self.seen = start, self.seen[:counted]
            self.arguments = [member if argument.pack is not None else argument for argument in arguments]
            spelled.append(str(self.type()))
            end, known = self.at, known if len(known) > counted else list(self.seen)
        self.at, self.seen, self.arguments = end, known, arguments
        return _Type(", ".join(spelled) if packs[0] else "")

    def vendor(self) -> _Type:
        self.need("D")
        letter = self.next()
        if letter == "p":
            return self.expansion()
        if letter not in _BUILTIN_D:
            raise _NotUnderstoodError
        return _Type(_BUILTIN_D[letter])


def readable(message: str) -> str:
    """A message in which names are those of the source."""
    return _MANGLED.sub(lambda found: demangle(found[0]), message)


@lru_cache(maxsize=4096)
def demangle(name: str) -> str:
    """`_Z4fillIfLi3EEvPT_` as `fill<float, 3>(float*)`; what is not mangled, or not understood, as it is."""
    if not name.startswith("_Z"):
        return name
    reader = _Reader(name, 2)
    try:
        spelled = reader.encoding()
    except _NotUnderstoodError:
        return name
    return spelled if reader.at == len(name) else name


def readable_name(name: str) -> str:
    """What the source calls a variable: with its namespaces, and the arguments of its template."""
    # A variable's name is mangled as a function's without the parameters; those of templates tell a result.
    for ending in ("", "vv"):
        words = demangle(name + ending)
        if not words.startswith("_Z"):
            return words.removesuffix("()").replace("(anonymous namespace)::", "")
    return name


def is_reserved(name: str) -> bool:
    """Whether a variable's name holds one that C++ keeps for compilers and their headers: `__x`."""
    # Most names need not be read.
    return "__" in name and re.search(r"(?<!\w)__\w", readable_name(name)) is not None
