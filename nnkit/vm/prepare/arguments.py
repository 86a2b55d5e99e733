"""Whether a call gives a function what it takes, and wants back what it returns."""

from collections.abc import Mapping

from nnkit.ptx.ir import (
    Function,
    Immediate,
    Instruction,
    Operand,
    PtxError,
    Register,
    Symbol,
    Variable,
    Vector,
)
from nnkit.vm.forms.signature import fits


def check_call(
    callee: Function, item: Instruction, registers: Mapping[str, str], slots: Mapping[str, Variable]
) -> None:
    """Raise PtxError for a call with other arguments or results than the function has.

    `registers` holds the types of the caller's registers, `slots` its `.param` variables.
    """
    if callee.is_entry:
        raise PtxError(f"{callee.name} is a kernel: only functions can be called", item.line)
    results, _, arguments = item.operands
    for what, declared, given in (
        ("result", callee.results, results),
        ("argument", callee.parameters, arguments),
    ):
        assert isinstance(given, Vector)
        if len(declared) != len(given.parts):
            counts = f"{len(given.parts)} {what}s, it has {len(declared)}"
            raise PtxError(f"function {callee.name} is called with {counts}", item.line)
        for formal, actual in zip(declared, given.parts, strict=True):
            if not _suits(formal, actual, registers, slots, is_result=what == "result"):
                raise PtxError(f"{what} {formal.name} of function {callee.name} has another type", item.line)


def _suits(
    formal: Variable,
    actual: Operand | None,
    registers: Mapping[str, str],
    slots: Mapping[str, Variable],
    is_result: bool,
) -> bool:
    """Whether what a call gives or wants back has the type that the function declares."""
    match actual:
        case Register(name):
            return fits(registers[name], formal.type)
        case Symbol(name):
            return name in slots and slots[name].size == formal.size
        case Immediate(_, bits):
            return not is_result and bool(bits) == (formal.type[0] == "f")
    return actual is None and is_result
