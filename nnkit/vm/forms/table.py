"""The table of instructions: which forms the machine knows, and all that it must know of each.

A form is registered beside its emitter. That of a pure operation is written once for scalars and vectors: it
gets the builder's `Lanes`, the instruction and the sources as LLVM values, and returns the result. That of an
effect gets the kernel's `Emitter` and the instruction; that of an access to memory only says what is read,
written or combined, and `nnkit.vm.memory.lowering` makes it. Operands are described by the words of
`nnkit.vm.forms.signature`. Nobody else decides by an instruction's name: what its form does not say is not
known of it.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from nnkit.ptx.ir import Function, Instruction, Module, PtxError
from nnkit.vm.forms import signature
from nnkit.vm.forms.signature import Slot, type_of

Compute = Callable[..., str]
Emit = Callable[..., None]
Describe = Callable[[Instruction], Any]

Lanes = Literal["computed", "joined", "loaded", "uniform", "members", "varying", ""]
"""How the results of a vector's lanes relate.

As those of the operands do, by the rules of `nnkit.vm.analysis.shapes` (computed) or the same if they are the
same (joined), as in memory (loaded), the same for all (uniform), the same for all that name the same members,
in no way (varying). "" is for forms without a result.
"""

AccessKind = Literal["load", "store", "update"]
"""What is done to memory; an update is atomic."""

Fence = Literal["block", "device", ""]
"""Whose threads a fence is for."""

Carry = Literal["in", "out", "both", ""]
"""Whether a form reads the carry flag, sets it, or both."""

Way = Literal["jump", "switch", "return", "exit", "barrier", "call"]
"""How a block's last instruction goes on: at a label, at one of a table, at the caller, nowhere, behind it as
soon as others have come, in a function.
"""


@dataclass(frozen=True)
class Form:
    """A form of an instruction, by its name; `operands` is its signature."""

    pattern: re.Pattern[str]
    operands: str
    since: int
    """The first target that has it, such as 100 for sm_100; 0 where nobody asks."""
    lanes: Lanes

    @property
    def count(self) -> int:
        """How many operands it has."""
        return len(self.slots)

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """What each operand may be."""
        return signature.slots(self.operands)

    @cached_property
    def results(self) -> frozenset[int]:
        """Which of the operands are written; all others are read."""
        return frozenset(at for at, slot in enumerate(self.slots) if slot.result)


@dataclass(frozen=True)
class Pure(Form):
    """An operation without side effects: result from sources, lane by lane."""

    result: str
    given: tuple[str, ...]
    compute: Compute

    def types(self, item: Instruction) -> tuple[str, tuple[str, ...]]:
        """The PTX types of the result and of the sources."""
        return type_of(self.result, item), tuple(type_of(letter, item) for letter in self.given)


@dataclass(frozen=True)
class Effect(Form):
    """What does more than to compute a value lane by lane."""

    emit: Emit
    warp_level: bool = False
    """Whether lanes of a warp talk to each other, so that a vector must be a warp."""
    warp_barrier: bool = False
    """Whether the threads of a warp wait for each other here."""
    fence: Fence = ""
    carry: Carry = ""
    stops: bool = False
    """Whether the kernel may end here, so that a block ends behind it."""


@dataclass(frozen=True)
class MemoryAccess(Form):
    """What reads or writes memory."""

    describe: Describe
    """Says what is to be done with the memory: returns a `nnkit.vm.memory.lowering.Transfer`."""
    access: AccessKind
    space: str
    """Where an address points that names no space."""


@dataclass(frozen=True)
class Ending(Form):
    """What ends a block, control flow and barriers: `nnkit.vm.code.flow` emits it."""

    way: Way
    aligned: bool = True
    """Whether the threads of a warp come to a barrier together, else each for itself."""


FORMS: dict[str, list[Form]] = {}

_FOUND: dict[tuple[str, tuple[str, ...], int], Form | None] = {}
"""The form of every name with so many operands that was looked up."""


def pure(
    pattern: str, given: str, result: str = "t", operands: str | None = None, since: int = 0
) -> Callable[[Compute], Compute]:
    """Register an emitter for every instruction whose whole name matches the pattern.

    `given` and `result` hold the types; `operands` the whole signature where more than these may stand.
    """
    words = operands or f">{result} {given}"

    def register(compute: Compute) -> Compute:
        for opcode, full in _opcodes(pattern):
            _add(opcode, Pure(full, words, since, "computed", result, tuple(given.split()), compute))
        return compute

    return register


def effect(
    operands: str,
    *patterns: str,
    lanes: Lanes = "",
    warp_level: bool = False,
    warp_barrier: bool = False,
    fence: Fence = "",
    carry: Carry = "",
    stops: bool = False,
) -> Callable[[Emit], Emit]:
    """Register an emitter of effects, with these operands."""

    def register(emit: Emit) -> Emit:
        for pattern in patterns:
            for opcode, full in _opcodes(pattern):
                facts = (warp_level, warp_barrier, fence, carry, stops)
                _add(opcode, Effect(full, operands, 0, lanes, emit, *facts))
        return emit

    return register


def memory_access(
    access: AccessKind, operands: str, *patterns: str, lanes: Lanes = "", space: str = "generic"
) -> Callable[[Describe], Describe]:
    """Register what describes accesses to memory, with these operands."""

    def register(describe: Describe) -> Describe:
        for pattern in patterns:
            for opcode, full in _opcodes(pattern):
                _add(opcode, MemoryAccess(full, operands, 0, lanes, describe, access, space))
        return describe

    return register


def ending(operands: str, *patterns: str, way: Way, lanes: Lanes = "", aligned: bool = True) -> None:
    """Register what ends a block, with these operands."""
    for pattern in patterns:
        for opcode, full in _opcodes(pattern):
            _add(opcode, Ending(full, operands, 0, lanes, way, aligned))


def _add(opcode: str, form: Form) -> None:
    FORMS.setdefault(opcode, []).append(form)


def _opcodes(pattern: str) -> list[tuple[str, re.Pattern[str]]]:
    """Every opcode before the first modifier, with the pattern of its names."""
    opcodes = re.match(r"[\w|]+", pattern)[0].split("|")  # type: ignore[index]
    return [(opcode, re.compile(re.sub(r"^[\w|]+", opcode, pattern))) for opcode in opcodes]


def form_of(item: Instruction) -> Form | None:
    """The form of an instruction: by its name, and by the number of its operands where that decides."""
    key = (item.opcode, item.modifiers, len(item.operands))
    if key not in _FOUND:
        entries = [form for form in FORMS.get(item.opcode, ()) if form.pattern.fullmatch(item.name)]
        exact = [form for form in entries if form.count == len(item.operands)]
        _FOUND[key] = next(iter(exact or entries), None)
    return _FOUND[key]


def is_pure(item: Instruction) -> bool:
    """Whether an instruction only makes a value of values."""
    form = form_of(item)
    return form is not None and form.lanes in ("computed", "joined")


def is_warp_level(item: Instruction) -> bool:
    """Whether an instruction needs the whole warp in one vector."""
    form = form_of(item)
    return isinstance(form, Effect) and form.warp_level


def is_warp_barrier(item: Instruction) -> bool:
    """Whether the threads of a warp wait for each other here."""
    form = form_of(item)
    return isinstance(form, Effect) and form.warp_barrier


def is_vote(item: Instruction) -> bool:
    """Whether it is a barrier with a result, which exists only behind it."""
    form = form_of(item)
    return isinstance(form, Ending) and form.way == "barrier" and bool(form.results)


def way_of(item: Instruction) -> Way | Literal[""]:
    """How an instruction ends its block, if it does."""
    form = form_of(item)
    return form.way if isinstance(form, Ending) else ""


def access_by(item: Instruction) -> AccessKind | Literal[""]:
    """What an instruction does to memory, if anything."""
    form = form_of(item)
    return form.access if isinstance(form, MemoryAccess) else ""


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
