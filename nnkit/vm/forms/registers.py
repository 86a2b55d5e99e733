"""Which registers an instruction reads and writes: as the signature of its form says."""

from collections.abc import Iterable

from nnkit.ptx.ir import Address, Instruction, Negated, Operand, Pair, Register, Vector
from nnkit.vm.forms.form import Effect
from nnkit.vm.forms.table import form_of

CARRY = "%cc"
"""The carry flag, which extended-precision instructions use without naming it: a predicate here."""


def destinations(item: Instruction) -> list[str]:
    """The names of the registers that an instruction writes."""
    results = _results(item)
    found = names_in(operand for at, operand in enumerate(item.operands) if at in results)
    return [*found, CARRY] if writes_carry(item) else found


def sources(item: Instruction) -> list[str]:
    """The names of the registers that an instruction reads, its guard included."""
    results = _results(item)
    found = names_in(operand for at, operand in enumerate(item.operands) if at not in results)
    if reads_carry(item):
        found.append(CARRY)
    return [*found, item.guard.register.name] if item.guard else found


def writes_carry(item: Instruction) -> bool:
    """Whether it sets the carry flag."""
    form = form_of(item)
    return isinstance(form, Effect) and form.carry in ("out", "both")


def reads_carry(item: Instruction) -> bool:
    """Whether it uses the carry flag."""
    form = form_of(item)
    return isinstance(form, Effect) and form.carry in ("in", "both")


def _results(item: Instruction) -> frozenset[int]:
    """The places of the operands that are written: of what nobody knows the first one, as of most."""
    form = form_of(item)
    if form is not None:
        return form.results
    return _FIRST if item.operands and not isinstance(item.operands[0], Address) else _NONE


_FIRST, _NONE = frozenset({0}), frozenset[int]()


def names_in(operands: Iterable[Operand | None]) -> list[str]:
    """The names of the registers among operands, in order."""
    found: list[str] = []
    for operand in operands:
        match operand:
            case Register(name):
                found.append(name)
            case Negated(register):
                found.append(register.name)
            case Address(base, _) if isinstance(base, Register):
                found.append(base.name)
            case Vector(parts):
                found += names_in(parts)
            case Pair(first, second):
                found += [part.name for part in (first, second) if part]
    return found
