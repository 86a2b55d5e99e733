"""What the machine knows of a form of an instruction: all of it, in one record.

Operands are described by the words of `nnkit.vm.forms.signature`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from nnkit.ptx.ir import Instruction
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

Meaning = Literal[
    "copy",
    "choice",
    "exchange",
    "sum",
    "difference",
    "product",
    "wide product",
    "high product",
    "product and sum",
    "wide product and sum",
    "high product and sum",
    "quotient",
    "remainder",
    "negation",
    "magnitude",
    "extreme",
    "arithmetic",
    "and",
    "or",
    "xor",
    "not",
    "left shift",
    "right shift",
    "count",
    "comparison",
    "test",
    "conversion",
    "address",
    "",
]
"""What a form does to values, for those who follow them.

A copy, one of two, the value of another lane; integer or float arithmetic, where a wide product has twice as
many bits as its factors, and "arithmetic" is any that nobody follows; bits; the number or the place of a bit;
a predicate from two numbers, or from one; another type, another address space. "" is anything else: of its
result nothing is known.
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

    section: str
    """Of the PTX ISA, one of `nnkit.vm.forms.sections`."""
    pattern: re.Pattern[str]
    operands: str
    since: int
    """The first target that has it, such as 100 for sm_100; 0 where nobody asks."""
    lanes: Lanes
    meaning: Meaning

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
