"""The table of instructions: which forms the machine knows, and what is asked of them.

A form is registered beside its emitter. That of a pure operation is written once for scalars and vectors: it
gets the builder's `Lanes`, the instruction and the sources as LLVM values, and returns the result. That of an
effect gets the kernel's `Emitter` and the instruction; that of an access to memory only says what is read,
written or combined, and `nnkit.vm.memory.lowering` makes it.

Nobody else decides by an instruction's name: what its form does not say is not known of it.
"""

import re
from collections.abc import Callable
from typing import Literal

from nnkit.ptx.ir import Instruction
from nnkit.vm.forms.form import (
    AccessKind,
    Carry,
    Compute,
    Describe,
    Effect,
    Emit,
    Ending,
    Fence,
    Form,
    Lanes,
    Meaning,
    MemoryAccess,
    Pure,
    Way,
)
from nnkit.vm.forms.signature import SPACES

FORMS: dict[str, list[Form]] = {}

_FOUND: dict[tuple[str, tuple[str, ...], int], Form | None] = {}
"""The form of every name with so many operands that was looked up."""


def pure(
    section: str,
    pattern: str,
    given: str,
    result: str = "t",
    operands: str | None = None,
    since: int = 0,
    meaning: Meaning = "",
) -> Callable[[Compute], Compute]:
    """Register an emitter for every instruction whose whole name matches the pattern.

    `given` and `result` hold the types; `operands` the whole signature where more than these may stand.
    """
    words = operands or f">{result} {given}"

    def register(compute: Compute) -> Compute:
        for opcode, full in _opcodes(pattern):
            _add(
                opcode,
                Pure(section, full, words, since, "computed", meaning, result, tuple(given.split()), compute),
            )
        return compute

    return register


def effect(
    section: str,
    operands: str,
    *patterns: str,
    lanes: Lanes = "",
    meaning: Meaning = "",
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
                _add(opcode, Effect(section, full, operands, 0, lanes, meaning, emit, *facts))
        return emit

    return register


def memory_access(
    section: str,
    access: AccessKind,
    operands: str,
    *patterns: str,
    lanes: Lanes = "",
    meaning: Meaning = "",
    space: str = "generic",
) -> Callable[[Describe], Describe]:
    """Register what describes accesses to memory, with these operands."""

    def register(describe: Describe) -> Describe:
        for pattern in patterns:
            for opcode, full in _opcodes(pattern):
                _add(
                    opcode, MemoryAccess(section, full, operands, 0, lanes, meaning, describe, access, space)
                )
        return describe

    return register


def ending(
    section: str, operands: str, *patterns: str, way: Way, lanes: Lanes = "", aligned: bool = True
) -> None:
    """Register what ends a block, with these operands."""
    for pattern in patterns:
        for opcode, full in _opcodes(pattern):
            _add(opcode, Ending(section, full, operands, 0, lanes, "", way, aligned))


def _add(opcode: str, form: Form) -> None:
    FORMS.setdefault(opcode, []).append(form)


def _opcodes(pattern: str) -> list[tuple[str, re.Pattern[str]]]:
    """Every opcode before the first modifier, with the pattern of its names."""
    opcodes = re.match(r"[\w|]+", pattern)[0].split("|")  # type: ignore[index]
    return [(opcode, re.compile(re.sub(r"^[\w|]+", opcode, pattern))) for opcode in opcodes]


def form_of(item: Instruction) -> Form | None:
    """The form of an instruction: by its name, and by the number of its operands where that decides."""
    key = (item.opcode, item.modifiers, len(item.operands))
    try:
        return _FOUND[key]
    except KeyError:
        entries = [form for form in FORMS.get(item.opcode, ()) if form.pattern.fullmatch(item.name)]
        exact = [form for form in entries if form.count == len(item.operands)]
        found = _FOUND[key] = next(iter(exact or entries), None)
        return found


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


def space_of(item: Instruction) -> str:
    """The space that an access is to: "global", "shared", "const", "param", "local" or "generic"."""
    form = form_of(item)
    default = form.space if isinstance(form, MemoryAccess) else "generic"
    names = (modifier.partition("::")[0] for modifier in item.modifiers)
    return next((name for name in names if name in SPACES), default)


def meaning_of(item: Instruction) -> Meaning:
    """What an instruction does to values."""
    form = form_of(item)
    return form.meaning if form is not None else ""
