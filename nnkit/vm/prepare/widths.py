"""Registers wider than the instruction's type, which loads, stores and conversions may have as operands.

A wide source is cut to the type's width, and a conversion's wide result extended, by instructions of their
own: so everything behind sees operands that have the width of their type. PTX ISA, "Operand Size Exceeding
Instruction-Type Size".
"""

from dataclasses import replace

from nnkit.ptx.ir import SIZES, Function, Instruction, Label, Operand, Register, Vector
from nnkit.vm.forms.form import Form, Pure
from nnkit.vm.forms.signature import type_of
from nnkit.vm.forms.table import form_of


def make_explicit(function: Function) -> None:
    """Rewrite the body so that no source is wider than its type, and no result of a conversion."""
    if function.body is None:
        return
    body: list[Instruction | Label] = []
    for item in function.body:
        form = form_of(item) if isinstance(item, Instruction) else None
        if isinstance(item, Instruction) and form is not None and any(slot.relaxed for slot in form.slots):
            body += _Rewriter(function.registers).rewritten(item, form)
        else:
            body.append(item)
    function.body = body


class _Rewriter:
    """One instruction, with what must stand before and behind it."""

    def __init__(self, registers: dict[str, str]):
        self.registers = registers
        self.before: list[Instruction] = []
        self.behind: list[Instruction] = []

    def rewritten(self, item: Instruction, form: Form) -> list[Instruction]:
        operands = list(item.operands)
        for at, slot in enumerate(form.slots):
            if not slot.relaxed:
                continue
            type_ = type_of(slot.type, item)
            if not slot.result:
                operands[at] = self.source(item, operands[at], type_)
            # Wide results of loads are extended where they are assigned.
            elif isinstance(form, Pure):
                operands[at] = self.result(item, operands[at], type_)
        return [*self.before, replace(item, operands=tuple(operands)), *self.behind]

    def source(self, item: Instruction, operand: Operand, type_: str) -> Operand:
        """What is read, cut to the type's width."""
        if isinstance(operand, Vector):
            return Vector(tuple(part and self.source(item, part, type_) for part in operand.parts))
        wide = self.wider(operand, type_)
        if not wide:
            return operand
        size = 8 * SIZES[type_]
        narrow = self.fresh(f"b{size}")
        cut = (f"u{size}", f"u{wide}")
        self.before.append(replace(item, opcode="cvt", modifiers=cut, operands=(narrow, operand)))
        return narrow

    def result(self, item: Instruction, target: Operand, type_: str) -> Operand:
        """What is written in the type's width, and extended behind the instruction."""
        wide = self.wider(target, type_)
        if not wide:
            return target
        size = 8 * SIZES[type_]
        narrow = self.fresh(f"b{size}")
        # A float's bits are not its value: they are filled up with zeros.
        sign = "s" if type_[0] == "s" else "u"
        extend = (f"{sign}{wide}", f"{sign}{size}")
        self.behind.append(replace(item, opcode="cvt", modifiers=extend, operands=(target, narrow)))
        return narrow

    def wider(self, operand: Operand, type_: str) -> int:
        """The bits of a register that has more than the type; 0 for anything else."""
        if not isinstance(operand, Register):
            return 0
        size = SIZES[self.registers[operand.name]]
        return 8 * size if 2 <= SIZES[type_] < size else 0

    def fresh(self, kind: str) -> Register:
        made = Register(f"narrow@{len(self.registers)}")
        self.registers[made.name] = kind
        return made
