"""Registers that are certainly small: what an index is made of besides parameters and what is loaded.

Places of threads and blocks, short constants, remainders, and sums of these. Anything else may be as large as
a parameter of 64 bits and be meant to meet one, as in `s[time[i] - start]`; if it has 32 bits the compiler
may have kept them of more.
"""

from collections.abc import Iterable, Mapping

from nnkit.ptx.ir import SIZES, Immediate, Instruction, Operand, Register, Special, Symbol
from nnkit.vm.forms.table import access_by, meaning_of

LARGEST = 1 << 24
"""Constants from this on are no part of an index, but may be what is left of something larger."""

LARGEST_FACTOR = 1 << 12
"""Constants up to this one leave a product of something small small."""

_SUMS = frozenset(
    (
        *("copy", "sum", "difference", "negation", "magnitude", "extreme", "or", "xor", "right shift"),
        *("quotient", "conversion"),
    )
)
"""What makes something small of small operands."""

HIGH_PRODUCTS = frozenset(("high product", "high product and sum"))
PRODUCTS = HIGH_PRODUCTS | {
    *("product", "wide product", "product and sum", "wide product and sum", "left shift"),
}
"""What multiplies its first two operands, or the first by a power of two."""

_LARGE = ("clock", "globaltimer")


class Small:
    """The registers of a kernel that are certainly small."""

    def __init__(self, definitions: Mapping[str, Iterable[Instruction]]):
        """`definitions` has every register's."""
        self._found: set[str] = set()
        # The smallest set: a sum that goes round in a loop may become large.
        while more := {
            name
            for name in definitions
            if name not in self._found and all(map(self.makes, definitions[name]))
        }:
            self._found |= more

    def holds(self, operand: Operand) -> bool:
        """Whether an operand is small."""
        match operand:
            case Register(name):
                return name in self._found
            case Immediate(value):
                # A negative one may be written without its sign.
                return any(abs(value - whole) < LARGEST for whole in (0, 1 << 32, 1 << 64))
            case Special(name):
                return not name.lstrip("%").startswith(_LARGE)
        return isinstance(operand, Symbol)

    def makes(self, item: Instruction) -> bool:
        """Whether an instruction makes something small."""
        given = item.operands[1:]
        match meaning := meaning_of(item):
            case "count":
                return True
            case "" | "arithmetic":
                return access_by(item) == "load" and SIZES.get(item.type, 8) < 4
            case "and" | "remainder" if any(
                isinstance(o, Immediate) and 0 <= o.value < LARGEST for o in given
            ):
                return True
            case "conversion" if SIZES.get(item.type, 8) < 4:
                return True
            case "choice":
                return all(map(self.holds, given[:2]))
        if meaning in PRODUCTS:
            return self.is_product(item) and all(map(self.holds, given[2:]))
        return meaning in _SUMS and all(map(self.holds, given))

    def is_product(self, item: Instruction) -> bool:
        """Whether the first two operands that are read have a small product."""
        factors, meaning = item.operands[1:3], meaning_of(item)
        if meaning in HIGH_PRODUCTS:
            return any(map(self.holds, factors))
        limit = LARGEST_FACTOR.bit_length() - 1 if meaning == "left shift" else LARGEST_FACTOR
        return all(map(self.holds, factors)) and all(
            o.value <= limit for o in factors if isinstance(o, Immediate)
        )
