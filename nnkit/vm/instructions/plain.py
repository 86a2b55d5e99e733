"""Pure instructions: on scalars where the shape allows it, else on vectors, on both where it may."""

from nnkit.ptx.ir import SIZES, Instruction, Pair, PtxError, Register, Vector
from nnkit.vm.analysis import shapes
from nnkit.vm.analysis.shapes import VARYING, Shape
from nnkit.vm.emit.emitter import Emitter
from nnkit.vm.emit.operands import value_of
from nnkit.vm.emit.values import Value
from nnkit.vm.forms.form import Pure
from nnkit.vm.instructions import logic
from nnkit.vm.instructions.bounds import compare_lanes
from nnkit.vm.text.builder import BITS, LLVM_TYPES

WIDENING = frozenset(("conversion", "wide product", "wide product and sum"))
"""What may give its result more bits than its operands have."""


def emit_pure(e: Emitter, item: Instruction, operation: Pure) -> None:
    """Compute the result and assign it."""
    target, *rest = item.operands
    if any(isinstance(operand, Vector) for operand in item.operands):
        repack(e, item)
        return
    result, given = operation.types(item)
    values = [value_of(e, operand, kind) for operand, kind in zip(rest, given, strict=True)]
    # `set` compares too, but makes a number of it.
    is_predicate = operation.meaning == "comparison" and operation.result == "pred"
    guard = compare_lanes(e, item, values) if is_predicate else None
    value = guard or evaluate(e, item, operation, result, values)
    if isinstance(target, Pair):
        if operation.meaning != "comparison":
            raise PtxError(f"{item.name} has one result", item.line)
        _pair(e, item, target, value, values)
        return
    e.assign(target, value, sign=result[0] == "s")


def evaluate(e: Emitter, item: Instruction, operation: Pure, result: str, values: list[Value]) -> Value:
    """The result as a value, in the cheapest form that is exact."""
    shape = shapes.transfer(item, operation, [value.shape for value in values], e.width)
    kind = LLVM_TYPES[result]
    if shape.constant is not None and kind[0] == "i" and kind != "i1" and SIZES.get(item.type, 0) >= 4:
        return Value(shape, kind, scalar=str(shape.constant))
    if shape.is_scalar:
        return Value(shape, kind, scalar=operation.compute(e.one, item, *(value.scalar for value in values)))
    vectors = [e.vector(value) for value in values]
    wide = operation.compute(e.all, item, *vectors)
    if shape.kind == "varying":
        return Value(shape, kind, vector=wide)
    scalar = operation.compute(e.one, item, *(value.scalar for value in values))
    return Value(shape, kind, scalar, wide, _flag(e, operation, item, values))


def _flag(e: Emitter, operation: Pure, item: Instruction, values: list[Value]) -> str:
    """Whether the likely result's pattern holds: its sources' do, and no lane wrapped when widened."""
    flags = [value.flag for value in values if value.flag]
    if operation.meaning in WIDENING:
        source = item.type
        for value in values:
            if value.shape.kind == "pattern" and BITS[value.kind] < 64:
                flags.append(_unwrapped(e, value, source[0] == "s"))
    found = flags[0] if flags else "true"
    for flag in flags[1:]:
        found = e.one.binary("and", "i1", found, flag)
    return found


def _unwrapped(e: Emitter, value: Value, signed: bool) -> str:
    size = BITS[value.kind]
    base = e.one.cast("sext" if signed else "zext", value.kind, value.scalar, "i64")
    low = -(1 << (size - 1)) if signed else 0
    high = (1 << (size - 1)) - 1 if signed else (1 << size) - 1
    least = e.one.binary("add", "i64", base, str(min(value.shape.pattern)))
    most = e.one.binary("add", "i64", base, str(max(value.shape.pattern)))
    above = e.one.compare("sge", "i64", least, str(low))
    below = e.one.compare("sle", "i64", most, str(high))
    return e.one.binary("and", "i1", above, below)


def _pair(e: Emitter, item: Instruction, target: Pair, value: Value, values: list[Value]) -> None:
    """setp p|q: q is the comparison's opposite, combined with the same third operand."""
    e.assign(target.first, value)
    if target.second is None:
        return
    wide = value.shape.kind != "uniform"
    lanes = e.all if wide else e.one
    a, b, *third = [e.vector(v) if wide else v.scalar for v in values]
    opposite = lanes.binary(
        "xor", "i1", logic.compared(lanes, item, item.type, a, b), lanes.constant("i1", 1)
    )
    combine = next((m for m in item.modifiers if m in ("and", "or", "xor")), None)
    if combine:
        opposite = lanes.binary(combine, "i1", opposite, third[0])
    shape = VARYING if wide else Shape("uniform")
    e.assign(target.second, Value(shape, "i1", "" if wide else opposite, opposite if wide else ""))


def repack(e: Emitter, item: Instruction) -> None:
    """mov between one wide register and the narrow ones that make it up, lowest bits first."""
    target, source = item.operands
    kind = LLVM_TYPES[item.type]
    if isinstance(source, Vector):
        _pack(e, target, source, kind)
    elif isinstance(target, Vector):
        _unpack(e, target, value_of(e, source, item.type), kind)


def _pack(e: Emitter, target: object, source: Vector, kind: str) -> None:
    part_bits = BITS[kind] // len(source.parts)
    part = f"b{part_bits}"
    values = [value_of(e, operand, part) for operand in source.parts]
    wide = any(value.shape.kind != "uniform" for value in values)
    lanes = e.all if wide else e.one
    total = lanes.constant(kind, 0)
    for place, value in enumerate(values):
        piece = lanes.resize(f"i{part_bits}", e.vector(value) if wide else value.scalar, kind)
        shifted = lanes.binary("shl", kind, piece, lanes.constant(kind, place * part_bits))
        total = lanes.binary("or", kind, total, shifted)
    assert isinstance(target, Register)
    shape = VARYING if wide else Shape("uniform")
    e.assign(target, Value(shape, kind, "" if wide else total, total if wide else ""))


def _unpack(e: Emitter, target: Vector, value: Value, kind: str) -> None:
    part_bits = BITS[kind] // len(target.parts)
    wide = value.shape.kind != "uniform"
    lanes = e.all if wide else e.one
    whole = e.vector(value) if wide else value.scalar
    for place, part in enumerate(target.parts):
        shifted = lanes.binary("lshr", kind, whole, lanes.constant(kind, place * part_bits))
        piece = lanes.cast("trunc", kind, shifted, f"i{part_bits}")
        shape = VARYING if wide else Shape("uniform")
        e.assign(part, Value(shape, f"i{part_bits}", "" if wide else piece, piece if wide else ""))
