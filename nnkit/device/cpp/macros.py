"""What the macros of a source stand for, as far as the shape of declarations goes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

MARKS = frozenset({"__global__", "__device__", "__constant__", "__shared__", "__managed__"})
"""What makes a declaration one for the device."""

CONSTANTS = frozenset({"constexpr", "consteval", "constinit"})
"""What makes a function or variable one of both sides."""

OPEN, CLOSE = {"(": ")", "[": "]", "{": "}"}, {")": "(", "]": "[", "}": "{"}


@dataclass
class Macros:
    """The definitions of all macros of a source."""

    bodies: Mapping[str, Sequence[str]]
    """The words and marks of each, all definitions of a name together."""
    functional: frozenset[str]
    """Those with parameters."""
    _known: dict[tuple[str, frozenset[str]], bool] = field(default_factory=dict)

    def marked(self, name: str) -> bool:
        """Whether it expands to something that marks device code, or may put such a mark together."""
        return self.holds(name, MARKS) or (self.holds(name, frozenset({"__"})) and "#" in self.bodies[name])

    def holds(self, name: str, words: frozenset[str]) -> bool:
        """Whether one of the words is in its expansion, perhaps through other macros."""
        known = self._known.get((name, words))
        if known is None:
            self._known[name, words] = False  # One that names itself.
            body = self.bodies.get(name, ())
            known = any(word in words or self.holds(word, words) for word in body)
            self._known[name, words] = known
        return known

    def unbalanced(self, name: str) -> bool:
        """Whether its expansion opens or closes something that it does not close or open."""
        return self._depths(name) is None

    def separates(self, name: str) -> bool:
        """Whether a declaration ends within its expansion."""
        return ";" in (self._depths(name) or ())

    def declares(self, name: str, words: frozenset[str]) -> bool:
        """Whether one of the words is in its expansion outside of brackets."""
        return any(word in words or self.holds(word, words) for word in self._depths(name) or ())

    def completes(self, name: str) -> bool:
        """Whether nothing can follow its expansion that belongs to the same declaration."""
        body = self.bodies.get(name, ())
        if not body or body[-1] in (";", "}"):
            return True
        if body[-1] == ")":
            depth = 0
            for index in range(len(body) - 1, 0, -1):
                depth += {")": 1, "(": -1}.get(body[index], 0)
                if depth == 0:
                    inner = body[index - 1]
                    return inner != name and inner in self.functional and self.completes(inner)
        return False

    def _depths(self, name: str) -> list[str] | None:
        """The words outside of its brackets; None if these do not match."""
        opened: list[str] = []
        outside = []
        for word in self.bodies.get(name, ()):
            if word in OPEN:
                opened.append(word)
            elif word in CLOSE:
                if not opened or opened.pop() != CLOSE[word]:
                    return None
            elif not opened:
                outside.append(word)
        return None if opened else outside
