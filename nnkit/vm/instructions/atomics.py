"""Atomic operations: lane after lane, each through the host's own atomic instructions, so that blocks on
other threads are safe from each other.
"""

from nnkit.ptx.ir import Instruction
from nnkit.vm.analysis.shapes import VARYING
from nnkit.vm.emit.emitter import Emitter
from nnkit.vm.emit.values import Value
from nnkit.vm.forms.table import effect
from nnkit.vm.instructions import load_store
from nnkit.vm.memory.access import access_of
from nnkit.vm.memory.addresses import pointers
from nnkit.vm.memory.checks import check
from nnkit.vm.text.builder import BITS

# The order of the modifiers is that of `nnkit.ptx.modifiers`.
_ORDER = r"(\.(relaxed|acquire|release|acq_rel))?(\.(cta|cluster|gpu|sys))?"
_ORDER_OF_RED = r"(\.(relaxed|release))?(\.(cta|cluster|gpu|sys))?"
_SPACE = r"(\.global|\.shared(::cta)?)?"


def _reductions(name: str, how: str) -> list[str]:
    """What both `atom` and `red` can do."""
    return [
        rf"{name}{how}{_SPACE}\.(and|or|xor)\.b(32|64)",
        rf"{name}{how}{_SPACE}\.add(\.noftz)?\.([us]32|u64|f32|f64)",
        rf"{name}{how}{_SPACE}\.(inc|dec)\.u32",
        rf"{name}{how}{_SPACE}\.(min|max)\.[us](32|64)",
    ]


_DIRECT = {"and": "and", "or": "or", "xor": "xor", "exch": "xchg", "inc": "uinc_wrap", "dec": "udec_wrap"}
OPERATIONS = frozenset([*_DIRECT, "add", "min", "max", "cas"])


def _operation(item: Instruction) -> str:
    name = next(m for m in item.modifiers if m in OPERATIONS)
    if name in _DIRECT:
        return _DIRECT[name]
    if name == "add":
        return "fadd" if item.type[0] == "f" else "add"
    return f"{'u' if item.type[0] == 'u' else ''}{name}"


@effect("[] t", *_reductions("red", _ORDER_OF_RED), access="update")
@effect(">t_ [] t", *_reductions("atom", _ORDER), lanes="varying", access="update")
@effect(">t_ [] t", rf"atom{_ORDER}{_SPACE}\.exch\.b(32|64)", lanes="varying", access="update")
@effect(">t_ [] t t", rf"atom{_ORDER}{_SPACE}\.cas\.b(16|32|64)", lanes="varying", access="update")
def _atomic(e: Emitter, item: Instruction) -> None:
    """A loop over the active lanes, lowest first."""
    access = access_of(item)
    assert access is not None
    _, base = check(e, access)
    returns = item.opcode == "atom"
    kind = load_store.element_type(item)
    first = 2 if returns else 1
    given = [e.vector(e.operand(operand, item.type)) for operand in item.operands[first:]]
    places = pointers(e, access, base)
    full = e.all.type(kind)
    text = e.text
    mask = e.mask64()
    entry, loop, done = text.label("atomic"), text.label("lane"), text.label("after")
    text.jump(entry)
    text.place(entry)
    text.jump(loop)
    text.place(loop)
    rest, rest_next = text.name("rest"), text.name("rest")
    olds, olds_next = text.name("olds"), text.name("olds")
    text.line(f"{rest} = phi i64 [ {mask}, %{entry} ], [ {rest_next}, %{loop} ]")
    text.line(f"{olds} = phi {full} [ zeroinitializer, %{entry} ], [ {olds_next}, %{loop} ]")
    text.declarations.add("declare i64 @llvm.cttz.i64(i64, i1)")
    lane = text.op(f"call i64 @llvm.cttz.i64(i64 {rest}, i1 false)")
    place = text.op(f"extractelement {e.all.type('ptr')} {places}, i64 {lane}")
    values = [text.op(f"extractelement {full} {vector}, i64 {lane}") for vector in given]
    align = BITS[kind] // 8
    if "cas" in item.modifiers:
        pair = text.op(
            f"cmpxchg ptr {place}, {kind} {values[0]}, {kind} {values[1]} seq_cst seq_cst, align {align}"
        )
        old = text.op(f"extractvalue {{ {kind}, i1 }} {pair}, 0")
    else:
        old = text.op(f"atomicrmw {_operation(item)} ptr {place}, {kind} {values[0]} seq_cst, align {align}")
    text.line(f"{olds_next} = insertelement {full} {olds}, {kind} {old}, i64 {lane}")
    below = text.op(f"sub i64 {rest}, 1")
    text.line(f"{rest_next} = and i64 {rest}, {below}")
    text.branch(text.op(f"icmp ne i64 {rest_next}, 0"), loop, done)
    text.place(done)
    if returns:
        e.assign(item.operands[0], Value(VARYING, kind, vector=olds_next))
