"""The table of opcodes: which forms of which instruction the machine knows, their operands, their emitters.

An emitter of a pure operation is written once for scalars and vectors: it gets `Lanes`, the instruction and
the sources as LLVM values, and returns the result. Operands are described by the words of
`nnkit.ptx.signature`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nnkit.ptx import signature
from nnkit.ptx.ir import Function, Instruction, Module, PtxError
from nnkit.ptx.signature import type_of

Emit = Callable[..., str]


@dataclass(frozen=True)
class Form:
    """A form of an instruction, by its name; `operands` is its signature."""

    pattern: re.Pattern[str]
    operands: str
    since: int
    """The first target that has it, such as 100 for sm_100; 0 where nobody asks."""

    @property
    def count(self) -> int:
        """How many operands it has."""
        return len(self.operands.split())


@dataclass(frozen=True)
class Pure(Form):
    """An operation without side effects: result from sources, the same for every lane."""

    result: str
    given: tuple[str, ...]
    emit: Emit

    def types(self, item: Instruction) -> tuple[str, tuple[str, ...]]:
        """The PTX types of the result and of the sources."""
        return type_of(self.result, item), tuple(type_of(letter, item) for letter in self.given)


FORMS: dict[str, list[Form]] = {}

_FOUND: dict[tuple[str, int], Form | None] = {}
"""The form of every name with so many operands that was looked up."""


def pure(
    pattern: str, given: str, result: str = "t", operands: str | None = None, since: int = 0
) -> Callable[[Emit], Emit]:
    """Register an emitter for every instruction whose whole name matches the pattern.

    `given` and `result` hold the types; `operands` the whole signature where more than these may stand.
    """
    words = operands or f">{result} {given}"

    def register(emit: Emit) -> Emit:
        for opcode, full in _opcodes(pattern):
            FORMS.setdefault(opcode, []).append(Pure(full, words, since, result, tuple(given.split()), emit))
        return emit

    return register


def effect(operands: str, *patterns: str) -> None:
    """Register forms with side effects, which have these operands and which the emitter handles by opcode."""
    for pattern in patterns:
        for opcode, full in _opcodes(pattern):
            FORMS.setdefault(opcode, []).append(Form(full, operands, 0))


def _opcodes(pattern: str) -> list[tuple[str, re.Pattern[str]]]:
    """Every opcode before the first modifier, with the pattern of its names."""
    opcodes = re.match(r"[\w|]+", pattern)[0].split("|")  # type: ignore[index]
    return [(opcode, re.compile(re.sub(r"^[\w|]+", opcode, pattern))) for opcode in opcodes]


def form_of(item: Instruction) -> Form | None:
    """The form of an instruction: by its name, and by the number of its operands where that decides."""
    key = (item.name, len(item.operands))
    if key not in _FOUND:
        entries = [form for form in FORMS.get(item.opcode, ()) if form.pattern.fullmatch(item.name)]
        exact = [form for form in entries if form.count == len(item.operands)]
        _FOUND[key] = next(iter(exact or entries), None)
    return _FOUND[key]


def find(item: Instruction) -> Pure | None:
    """The pure operation for an instruction, if it is one."""
    form = form_of(item)
    return form if isinstance(form, Pure) and form.count == len(item.operands) else None


def check(module: Module, function: Function) -> None:
    """Note in the function the first instruction that is wrong, or that nobody emits."""
    spaces = {name: variable.space for name, variable in module.variables.items()}
    spaces |= {v.name: v.space for v in (*function.results, *function.variables)}
    spaces |= {v.name: "input" for v in function.parameters}
    target = int(re.sub(r"\D", "", module.target) or 0)
    for item in function.body or ():
        if function.error is not None and function.error.line <= getattr(item, "line", 0):
            return
        if isinstance(item, Instruction):
            words = _refusal(item, function.registers, spaces, target)
            if words:
                function.error = PtxError(words, item.line)
                return


def _refusal(item: Instruction, registers: Mapping[str, str], spaces: Mapping[str, str], target: int) -> str:
    name = item.spelling or item.name
    form = form_of(item)
    if form is None:
        what = "this form of it is" if item.opcode in FORMS else "it is"
        return f"instruction {name}: {what} not supported by the virtual device"
    if target < form.since:
        return f"instruction {name}: with {form.count} operands it needs .target sm_{form.since} or higher"
    words = signature.complaint(item, form.operands, registers, spaces)
    return f"instruction {name}: {words}" if words else ""
