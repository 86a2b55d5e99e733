"""The table of opcodes: which forms of which instruction the machine knows, and who emits them.

An emitter of a pure operation is written once for scalars and vectors: it gets `Lanes`, the instruction and
the sources as LLVM values, and returns the result. Its types are given in letters: "t" the instruction's type
(its last one), "d" its first one, "w" twice as wide as "t"; or by name.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from nnkit.ptx.ir import SIZES, Instruction, PtxError

Emit = Callable[..., str]


@dataclass(frozen=True)
class Pure:
    """An operation without side effects: result from sources, the same for every lane."""

    pattern: re.Pattern[str]
    result: str
    given: tuple[str, ...]
    emit: Emit

    def types(self, item: Instruction) -> tuple[str, tuple[str, ...]]:
        """The PTX types of the result and of the sources."""
        return _type(self.result, item), tuple(_type(letter, item) for letter in self.given)


PURE: dict[str, list[Pure]] = {}
EFFECTS: dict[str, list[re.Pattern[str]]] = {}


def _type(letter: str, item: Instruction) -> str:
    if letter == "t":
        return item.type
    if letter == "d":
        return next(m for m in item.modifiers if m in SIZES)
    if letter == "w":
        return f"{item.type[0]}{16 * SIZES[item.type]}"
    return letter


def pure(pattern: str, given: str, result: str = "t") -> Callable[[Emit], Emit]:
    """Register an emitter for every instruction whose whole name matches the pattern."""

    def register(emit: Emit) -> Emit:
        for opcode in re.match(r"[\w|]+", pattern)[0].split("|"):  # type: ignore[index]
            full = re.compile(re.sub(r"^[\w|]+", opcode, pattern))
            PURE.setdefault(opcode, []).append(Pure(full, result, tuple(given.split()), emit))
        return emit

    return register


def effect(*patterns: str) -> None:
    """Register forms with side effects, which the emitter handles by opcode."""
    for pattern in patterns:
        for opcode in re.match(r"[\w|]+", pattern)[0].split("|"):  # type: ignore[index]
            EFFECTS.setdefault(opcode, []).append(re.compile(re.sub(r"^[\w|]+", opcode, pattern)))


def find(item: Instruction) -> Pure | None:
    """The pure operation for an instruction, if it is one: by its name and the number of its operands."""
    name, given = item.name, len(item.operands) - 1
    entries = PURE.get(item.opcode, ())
    return next((e for e in entries if len(e.given) == given and e.pattern.fullmatch(name)), None)


def refuse_unknown(item: Instruction) -> None:
    """Raise PtxError for an instruction or a form of it that nobody emits."""
    if find(item) is None and not any(p.fullmatch(item.name) for p in EFFECTS.get(item.opcode, ())):
        known = item.opcode in PURE or item.opcode in EFFECTS
        what = "this form of it is" if known else "it is"
        raise PtxError(
            f"instruction {item.spelling or item.name}: {what} not supported by the virtual device", item.line
        )
