"""What an operand stands for: a register, an immediate, the address of a variable, a special register."""

from nnkit.ptx.ir import Immediate, Negated, Operand, PtxError, Register, Special, Symbol
from nnkit.vm.analysis import shapes
from nnkit.vm.analysis.shapes import VARYING
from nnkit.vm.emit.emitter import Emitter
from nnkit.vm.emit.special import emit_special
from nnkit.vm.emit.values import Value
from nnkit.vm.text.builder import BITS, LLVM_TYPES, float_literal
from nnkit.vm.text.layout import Context


def value_of(e: Emitter, operand: Operand | None, ptx_type: str) -> Value:
    """An operand as a value of the LLVM type that goes with a PTX type. Raises PtxError."""
    kind = LLVM_TYPES[ptx_type]
    match operand:
        case Register(name):
            return e.as_kind(e.read(name), kind)
        case Immediate(number, bits):
            return _constant(e, kind, number, bits)
        case Symbol(name, offset):
            return address_of(e, name, offset, kind)
        case Special(name):
            return e.as_kind(emit_special(e, name), kind)
        case Negated(register):
            return _negated(e, e.read(register.name))
    raise PtxError(f"operand {operand} is not supported here")


def address_of(e: Emitter, name: str, offset: int, kind: str) -> Value:
    """The address of a variable: known when the kernel is compiled, but for those of global memory."""
    memory = e.kernel.memory
    if name in memory.globals:
        table = e.context_field(Context.GLOBALS, "ptr")
        place = e.text.op(f"getelementptr i64, ptr {table}, i64 {memory.globals[name]}")
        start = e.text.op(f"load i64, ptr {place}")
        address = e.one.binary("add", "i64", start, str(offset))
        return Value(e.uniform(), kind, scalar=e.one.resize("i64", address, kind))
    if name not in e.kernel.analysis.addresses:
        raise PtxError(f"there is no variable {name}")
    known = e.kernel.analysis.addresses[name] + offset
    return Value(shapes.constant(known, BITS[kind]), kind, scalar=e.one.constant(kind, known))


def _constant(e: Emitter, kind: str, value: int, bits: int) -> Value:
    """An immediate: an integer, or the bits of a float."""
    if kind in ("float", "double"):
        return Value(e.uniform(), kind, scalar=float_literal(kind, value, bits))
    if kind == "i1":
        value = int(value != 0)
    if bits and bits != BITS[kind]:
        raise PtxError(f"a {bits}-bit float constant where {kind} is expected")
    return Value(shapes.constant(value, BITS[kind]), kind, scalar=e.one.constant(kind, value))


def _negated(e: Emitter, given: Value) -> Value:
    if given.shape.kind == "uniform":
        return Value(given.shape, "i1", scalar=e.one.binary("xor", "i1", given.scalar, "true"))
    flipped = e.all.binary("xor", "i1", e.vector(given), e.all.constant("i1", 1))
    return Value(VARYING, "i1", vector=flipped)
