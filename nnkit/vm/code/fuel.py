"""Fuel: what a strand's instructions cost, so that an endless loop can be stopped."""

from nnkit.ptx.ir import Immediate, Instruction
from nnkit.vm.emit.emitter import Emitter
from nnkit.vm.text.layout import Context, Fault

_NOWHERE = Instruction("bra", (), (Immediate(0),))
"""Where a block without instructions is stopped."""


def burn(e: Emitter, cost: int) -> None:
    """Use fuel: where none is left, ask for more, or stop."""
    text = e.text
    fuel = text.op("load i64, ptr %fuel")
    left = text.op(f"sub i64 {fuel}, {cost}")
    text.line(f"store i64 {left}, ptr %fuel")
    some = text.op(f"icmp sgt i64 {left}, 0")
    empty, filled, stopped, go = (text.label(hint) for hint in ("empty", "filled", "stopped", "fuelled"))
    text.likely(some, go, empty)
    text.place(empty)
    refill = e.context_field(Context.REFILL, "ptr")
    more = text.op(f"call i64 {refill}(ptr %ctx, ptr %wk)")
    text.branch(text.op(f"icmp sgt i64 {more}, 0"), filled, stopped)
    text.place(filled)
    text.line(f"store i64 {more}, ptr %fuel")
    text.jump(go)
    text.place(stopped)
    code = e.block.code
    item = code.last or (code.instructions[-1] if code.instructions else _NOWHERE)
    e.fault(Fault.STOPPED, e.site(item, "stopped"), e.mask64())
    text.place(go)
