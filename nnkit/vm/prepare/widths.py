"""Registers wider than the instruction's type, which loads, stores and conversions may have as operands.

A wide source is cut to the type's width, and a conversion's wide result extended, by instructions of their
own: so everything behind sees operands that have the width of their type. PTX ISA, "Operand Size Exceeding
Instruction-Type Size".
"""

from dataclasses import replace

from nnkit.ptx.ir import SIZES, Function, Instruction, Label, Operand, Register, Vector

RELAXED = frozenset({"st", "cvt"})
"""Opcodes whose sources may be wider. Wide results of loads are extended where they are assigned."""


def make_explicit(function: Function) -> None:
    """Rewrite the body so that no source is wider than its type, and no result of a conversion."""
    if function.body is None:
        return
    body: list[Instruction | Label] = []
    for item in function.body:
        if isinstance(item, Instruction) and item.opcode in RELAXED and item.type:
            body += _rewritten(item, function.registers)
        else:
            body.append(item)
    function.body = body


def _rewritten(item: Instruction, registers: dict[str, str]) -> list[Instruction]:
    before: list[Instruction] = []
    behind: list[Instruction] = []

    def fresh(kind: str) -> Register:
        made = Register(f"narrow@{len(registers)}")
        registers[made.name] = kind
        return made

    def source(operand: Operand | None) -> Operand | None:
        size = SIZES[item.type]
        if not isinstance(operand, Register) or not 2 <= size < SIZES[registers[operand.name]]:
            return operand
        wide = 8 * SIZES[registers[operand.name]]
        narrow = fresh(f"b{8 * size}")
        cut = (f"u{8 * size}", f"u{wide}")
        before.append(replace(item, opcode="cvt", modifiers=cut, operands=(narrow, operand)))
        return narrow

    if item.opcode == "st":
        place, value = item.operands
        if isinstance(value, Vector):
            value = Vector(tuple(source(part) for part in value.parts))
        else:
            value = source(value) or value
        return [*before, replace(item, operands=(place, value))]
    target, given = item.operands
    kinds = [m for m in item.modifiers if m in SIZES]
    size = SIZES[kinds[0]]
    if isinstance(target, Register) and 2 <= size < SIZES[registers[target.name]]:
        narrow = fresh(f"b{8 * size}")
        # A float's bits are not its value: they are filled up with zeros.
        sign = "s" if kinds[0][0] == "s" else "u"
        extend = (f"{sign}{8 * SIZES[registers[target.name]]}", f"{sign}{8 * size}")
        behind.append(replace(item, opcode="cvt", modifiers=extend, operands=(target, narrow)))
        target = narrow
    given = source(given) or given
    return [*before, replace(item, operands=(target, given)), *behind]
