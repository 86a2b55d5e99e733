"""The declarations of a C++ text, one by one: what each is, what it declares, whether device code is in it.

It is no compiler: what it does not recognise for certain is of the kind "other", and those who leave code out
leave such things alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from nnkit.device.cpp.macros import CLOSE, CONSTANTS, MARKS, OPEN, Macros
from nnkit.device.cpp.names import WITH_ARGUMENT, declarators, of_simple, outside
from nnkit.device.cpp.tokens import Token, UnreadableError

_CLASS = frozenset({"class", "struct", "union", "enum"})
_SIMPLE = frozenset({"using", "typedef", "static_assert", "asm", "namespace", "concept"})
_AFTER_PARAMETERS = frozenset({")", "const", "volatile", "noexcept", "override", "final", "&", "try"})


@dataclass
class Item:
    """One declaration: tokens `first` to `last`, both included.

    `kind` is function (with a body, from token `body`), variable, class, simple (using, typedef, ...), macro
    (a macro's name with arguments), scope (a namespace or linkage block), or other. `name` is "" if unknown.
    """

    kind: str
    first: int
    last: int
    name: str = ""
    variables: list[str] = field(default_factory=list)
    """The names that it declares, but for those of functions and classes."""
    body: int = 0
    marked: bool = False
    constant: bool = False
    qualified: bool = False
    static: bool = False
    member: bool = False
    children: list["Item"] = field(default_factory=list)


class Reader:
    """Reads the items of one text. Raises UnreadableError where the text is not what it knows."""

    def __init__(self, found: list[Token], macros: Macros):
        self.tokens = found
        self.macros = macros
        self.partner = self._pairs()

    def items(self) -> list[Item]:
        """All declarations of the text; directives belong to none, though they may lie within."""
        return self._scope(0, len(self.tokens), member=False)

    def text(self, index: int) -> str:
        """The token, "" for a directive, which counts for nothing here."""
        token = self.tokens[index]
        return "" if token.kind in ("directive", "string", "char") else token.text

    def _pairs(self) -> dict[int, int]:
        """Which bracket closes which."""
        partner: dict[int, int] = {}
        opened: list[int] = []
        for index, token in enumerate(self.tokens):
            if token.kind == "word" and self.macros.unbalanced(token.text):
                raise UnreadableError(token.line, f"the macro {token.text} opens or closes a bracket")
            if token.kind != "mark":
                continue
            if token.text in OPEN:
                opened.append(index)
            elif token.text in CLOSE:
                if not opened or self.tokens[opened[-1]].text != CLOSE[token.text]:
                    raise UnreadableError(token.line, f"a {token.text} that closes nothing")
                partner[opened[-1]] = index
                partner[index] = opened.pop()
        if opened:
            token = self.tokens[opened[-1]]
            raise UnreadableError(token.line, f"a {token.text} that nothing closes")
        return partner

    def _scope(self, at: int, end: int, member: bool) -> list[Item]:
        found: list[Item] = []
        while at < end:
            token = self.tokens[at]
            if token.kind == "directive" or token.text == ";":
                at += 1
            elif member and token.text in ("public", "private", "protected") and self._next(at, end) == ":":
                at = self._after(at, end) + 1
            else:
                item = self._item(at, end, member)
                item.member = member
                found.append(item)
                at = item.last + 1
        return found

    def _after(self, at: int, end: int) -> int:
        """The next token that is no directive, or `end`."""
        at += 1
        while at < end and self.tokens[at].kind == "directive":
            at += 1
        return at

    def _next(self, at: int, end: int) -> str:
        after = self._after(at, end)
        return self.text(after) if after < end else ""

    def _item(self, first: int, end: int, member: bool) -> Item:
        scope = self._block(first, end)
        if scope is not None:
            return scope
        if self.text(first) in self.macros.functional and self._next(first, end) == "(":
            close = self.partner[self._after(first, end)]
            behind = self._next(close, end)
            whole = behind in (";", "") or self.macros.completes(self.text(first))
            if whole and behind not in ("{", ":", "::", "->", "const", "=", ",", "("):
                last = self._after(close, end) if behind == ";" else close
                return Item("macro", first, last, marked=self.macros.marked(self.text(first)))
        return _Declaration(self, first, end, member).read()

    def _block(self, first: int, end: int) -> Item | None:
        """A namespace or a linkage block, if one stands here."""
        at = first
        if self.text(at) == "inline":
            at = self._after(at, end)
        if at >= end:
            return None
        if self.tokens[at].text == "namespace":
            while at < end and self.text(at) not in ("{", ";", "="):
                at = self.partner[at] + 1 if self.text(at) in ("[", "(") else self._after(at, end)
        elif self.tokens[at].text == "extern" and self._is_string(self._after(at, end), end):
            at = self._after(self._after(at, end), end)
        else:
            return None
        if at >= end or self.text(at) != "{":
            return None
        close = self.partner[at]
        return Item("scope", first, close, children=self._scope(at + 1, close, member=False))

    def _is_string(self, at: int, end: int) -> bool:
        return at < end and self.tokens[at].kind == "string"

    def scope(self, first: int, end: int) -> list[Item]:
        """The members of a class between its braces."""
        return self._scope(first, end, member=True)

    def after(self, at: int, end: int) -> int:
        """The next token that is no directive, or `end`."""
        return self._after(at, end)

    def before(self, at: int) -> int:
        """The token before that is no directive."""
        at -= 1
        while at > 0 and self.tokens[at].kind == "directive":
            at -= 1
        return at

    def angle(self, at: int, end: int) -> int:
        """Behind the `>` that closes the `<` here; `at` itself if none does."""
        depth, start = 0, at
        while at < end:
            word = self.text(at)
            if word in ("(", "["):
                at = self.partner[at]
            elif word == "<":
                depth += 1
            elif word == ">":
                depth -= 1
                if depth == 0:
                    return at + 1
            elif word in (";", "{", "}", ")", "]"):
                return start
            at += 1
        return start


class _Declaration:
    """One declaration that is no block."""

    def __init__(self, reader: Reader, first: int, end: int, member: bool):
        self.reader, self.first, self.end = reader, first, end
        self.item = Item("other", first, first, member=member)
        self.words: list[str] = []  # What stands outside of all brackets, up to a body.
        self.head_marks = False

    def read(self) -> Item:
        at = self.first
        while self.reader.text(at) == "template":
            at = self.reader.after(at, self.end)
            if at < self.end and self.reader.text(at) == "<":
                closed = self.reader.angle(at, self.end)
                if closed == at:
                    raise UnreadableError(self.reader.tokens[at].line, "a template whose < nothing closes")
                at = closed
                while at < self.end and self.reader.tokens[at].kind == "directive":
                    at += 1
            if at >= self.end:
                return self._done(self.end - 1, "other")
        if self.reader.text(at) in _SIMPLE:
            return self._to_semicolon(at, "simple")
        return self._declarator(at)

    def _marks(self, first: int, last: int) -> bool:
        macros = self.reader.macros
        return any(
            token.kind == "word" and (token.text in MARKS or macros.marked(token.text))
            for token in self.reader.tokens[first : last + 1]
        )

    def _done(self, last: int, kind: str) -> Item:
        item = self.item
        item.kind, item.last = kind, last
        limit = item.body - 1 if kind == "function" else last
        item.marked = self._marks(self.first, limit)
        words = [self.reader.text(index) for index in outside(self.reader, self.first, limit + 1)]
        declared = words[: words.index("=")] if "=" in words else words
        item.constant = any(self._is(word, CONSTANTS) for word in [*declared, *self._macro_arguments(limit)])
        item.static = "static" in words
        if kind == "variable" and not item.constant:
            # `const int *p` is a variable, `int *const p` is none.
            last_star = max((index for index, word in enumerate(declared) if word == "*"), default=-1)
            item.constant = any(self._is(word, frozenset({"const"})) for word in declared[last_star + 1 :])
            # Each of `const int *p, n` is another thing.
            item.constant = item.constant and (last_star < 0 or len(item.variables) < 2)
        return item

    def _macro_arguments(self, last: int) -> Iterator[str]:
        reader = self.reader
        for at in range(self.first, last):
            if reader.text(at) in reader.macros.functional and reader.text(at + 1) == "(":
                yield from map(reader.text, range(at + 2, reader.partner[at + 1]))

    def _is(self, word: str, words: frozenset[str]) -> bool:
        return word in words or self.reader.macros.holds(word, words)

    def _to_semicolon(self, at: int, kind: str) -> Item:
        reader, start = self.reader, at
        while at < self.end and reader.text(at) != ";":
            self._refuse_separator(at)
            if reader.text(at) in OPEN:
                at = reader.partner[at]
            at += 1
        last = min(at, self.end - 1)
        if kind == "class":
            self.item.variables = declarators(reader, start, last, typed=True)
        else:
            self.item.variables = of_simple(reader, start, last)
            self.item.name = self.item.variables[0] if self.item.variables else ""
        return self._done(last, kind)

    def _refuse_separator(self, at: int) -> None:
        token = self.reader.tokens[at]
        if token.kind == "word" and self.reader.macros.separates(token.text):
            raise UnreadableError(token.line, f"the macro {token.text} ends a declaration")

    def _declarator(self, at: int) -> Item:  # noqa: PLR0912, PLR0915  As many branches as the grammar has.
        reader, end, start = self.reader, self.end, at
        keyword, named, parameters, initialised, in_list = "", -1, False, False, False
        previous = ""
        while at < end:
            token, word = reader.tokens[at], reader.text(at)
            if token.kind == "directive":
                at += 1
                continue
            self._refuse_separator(at)
            if word == ";":
                if keyword and not initialised and not parameters and self._declares_class(start, at):
                    return self._done(at, "class")
                kind = "variable" if not parameters or initialised else "declaration"
                self.item.variables = declarators(reader, start, at)
                if kind == "declaration" and self.item.variables and self._is_pointer(named):
                    kind = "variable"
                return self._declared(at, kind, named)
            if word == "operator" and not initialised:
                # Up to its parameters: operator() has two pairs.
                named, at = at, reader.after(at, end)
                while at < end and reader.text(at) != "(":
                    at += 1
                if at + 2 < end and reader.text(at + 1) == ")" and reader.text(at + 2) == "(":
                    at += 2
                previous, parameters = ")", True
                at = reader.partner.get(at, at) + 1
                continue
            if word == "<" and not initialised and reader.tokens[at - 1].kind == "word":
                closed = reader.angle(at, end)
                previous, at = (">", closed) if closed > at else (word, at + 1)
                continue
            if word == "=":
                initialised = True
            elif word == ":" and previous in _AFTER_PARAMETERS and parameters and not initialised:
                in_list = True
                self.item.body = at
            elif word in _CLASS and not parameters and not initialised and not keyword:
                keyword = word
            elif word in ("(", "["):
                plain = previous not in WITH_ARGUMENT and previous not in reader.macros.functional
                if word == "(" and plain and not parameters and not initialised:
                    parameters, named = True, self._before(at)
                at = reader.partner[at]
                previous, at = reader.text(at), at + 1
                continue
            elif word == "{":
                close = reader.partner[at]
                if keyword and not parameters and not initialised:
                    if keyword != "enum":
                        self.item.children = reader.scope(at + 1, close)
                    self.item.name = self.item.name or self._class_name(at)
                    self.item.body = at
                    self.item.kind = "class"
                    return self._to_semicolon(close + 1, "class")
                if in_list and previous not in (")", "}"):
                    previous, at = "}", close + 1
                    continue
                if parameters and not initialised and (in_list or self._behind_parameters(at, named)):
                    if not in_list:
                        self.item.body = at
                    before = reader.before(self.item.body)
                    if reader.text(before) == "try":
                        self.item.body = before
                    while reader.text(min(reader.after(close, end), end - 1)) == "catch":
                        close = reader.partner[reader.after(reader.after(close, end), end)]
                        close = reader.partner[reader.after(close, end)]
                    return self._declared(close, "function", named)
                previous, at = "}", close + 1
                initialised = True
                continue
            previous = word
            at += 1
        return self._done(end - 1, "other")

    def _declared(self, last: int, kind: str, named: int) -> Item:
        if kind == "variable":
            self.item.name = self.item.variables[0] if self.item.variables else ""
            written = [self.reader.text(index) for index in range(self.first, last)]
            self.item.qualified = self._qualified(written)
            if not self.item.name:
                kind = "other"
        elif named >= 0:
            token = self.reader.tokens[named]
            before = self.reader.tokens[named - 1].text if named > self.first else ""
            self.item.name = token.text if token.kind == "word" else ""
            self.item.qualified = before == "::" or (before == "~" and self.reader.text(named - 2) == "::")
            if kind == "function" and token.kind != "word" and token.text != ")":
                kind = "other"
        return self._done(last, kind)

    def _is_pointer(self, named: int) -> bool:
        """Whether `(*name` stands behind the token, and no parameters."""
        reader = self.reader
        return reader.text(reader.after(reader.after(named, self.end), self.end)) in ("*", "&")

    def _before(self, at: int) -> int:
        """The token that a parenthesis follows."""
        at = self.reader.before(at)
        if self.reader.text(at) == ">":  # name<arguments>(
            depth = 0
            while at > self.first:
                depth += {">": 1, "<": -1}.get(self.reader.text(at), 0)
                at -= 1
                if depth == 0:
                    break
        return at

    def _behind_parameters(self, at: int, named: int) -> bool:
        """Whether what stands between the parameters and this brace is what a function may have there."""
        reader = self.reader
        if reader.text(reader.before(at)) in _AFTER_PARAMETERS:
            return True
        return any(reader.text(index) == "->" for index in range(named + 1, at))

    def _declares_class(self, start: int, last: int) -> bool:
        """Whether `struct X;` or `template class X<int>;` stands here, and not `struct X x;`."""
        reader = self.reader
        at = next(index for index in range(start, last) if reader.text(index) in _CLASS) + 1
        while at < last and reader.text(at) in ("class", "struct", "[", "(", "::"):
            at = reader.partner.get(at, at) + 1
        while at + 2 < last and reader.text(at + 1) == "::":
            at += 2
        behind = reader.after(at, last)
        if behind < last and reader.text(behind) == "<":
            behind = reader.angle(behind, last)
        return behind >= last or reader.text(behind) == ":"

    def _class_name(self, brace: int) -> str:
        names = []
        for index in range(self.first, brace):
            if self.reader.text(index) == ":":
                break
            token = self.reader.tokens[index]
            if token.kind == "word" and token.text not in _CLASS and token.text not in ("final", "alignas"):
                names.append(token.text)
        return names[-1] if names else ""

    @staticmethod
    def _qualified(words: list[str]) -> bool:
        """Whether what is declared is a member of something that stands elsewhere."""
        ends = [index for index, word in enumerate(words) if word in ("=", "[", "{", ",")]
        name = (ends[0] if ends else len(words)) - 1
        return name > 0 and words[name - 1] == "::"
