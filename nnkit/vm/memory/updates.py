"""Atomic operations: lane after lane, each through the host's own atomic instructions, so that blocks on
other threads are safe from each other.
"""

from dataclasses import dataclass

from nnkit.ptx.ir import Operand
from nnkit.vm.analysis.shapes import VARYING
from nnkit.vm.emit.emitter import Emitter
from nnkit.vm.emit.operands import value_of
from nnkit.vm.emit.values import Value
from nnkit.vm.memory.access import Access, Group
from nnkit.vm.memory.addresses import pointers
from nnkit.vm.text.builder import BITS


@dataclass(frozen=True)
class Update:
    """Combines memory with an operand, as LLVM's `atomicrmw` names it, or with two: `cmpxchg`."""

    operation: str
    given: tuple[Operand | None, ...]
    into: Operand | None = None
    """The register that gets what was there before, if one does."""

    def emit(self, e: Emitter, access: Access, group: Group, base: Value) -> None:
        """A loop over the active lanes, lowest first."""
        kind = access.element
        given = [e.vector(value_of(e, operand, access.item.type)) for operand in self.given]
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
        lane = e.lowest(rest)
        place = text.op(f"extractelement {e.all.type('ptr')} {places}, i64 {lane}")
        values = [text.op(f"extractelement {full} {vector}, i64 {lane}") for vector in given]
        align = BITS[kind] // 8
        if self.operation == "cmpxchg":
            pair = text.op(
                f"cmpxchg ptr {place}, {kind} {values[0]}, {kind} {values[1]} seq_cst seq_cst, align {align}"
            )
            old = text.op(f"extractvalue {{ {kind}, i1 }} {pair}, 0")
        else:
            old = text.op(
                f"atomicrmw {self.operation} ptr {place}, {kind} {values[0]} seq_cst, align {align}"
            )
        text.line(f"{olds_next} = insertelement {full} {olds}, {kind} {old}, i64 {lane}")
        below = text.op(f"sub i64 {rest}, 1")
        text.line(f"{rest_next} = and i64 {rest}, {below}")
        text.branch(text.op(f"icmp ne i64 {rest_next}, 0"), loop, done)
        text.place(done)
        if self.into is not None:
            e.assign(self.into, Value(VARYING, kind, vector=olds_next))
