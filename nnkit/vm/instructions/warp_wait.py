"""Waiting at a barrier of a warp (`__syncwarp`) until the members that went another way come or leave.

Lanes of a vector go through the blocks in one order. So those that have gone another way are made to run
first: the lanes in front of the barrier wait for its block once more, and one that others wait for runs.
Members come together at any barrier of the warp, not only at the same one: who waits at another than the one
that opens is released there too, and does not wait again when its turn comes.
"""

from nnkit.ptx.ir import Instruction
from nnkit.vm.emit.emitter import Emitter
from nnkit.vm.emit.masks import active_lanes, set_waiting
from nnkit.vm.text.layout import Fault

RELEASED = "%released"
"""The lanes for which the barrier that they wait at has opened."""

STANDING = "%standing"
"""The lanes that wait for a block that begins with a barrier."""

STOPPED, SITE = "%stopped.lanes", "%stopped.site"
"""The lanes that a barrier has stopped last, and which: for the report if nobody can go on."""


def slots(e: Emitter) -> list[str]:
    """Its stack slots."""
    masks = [f"{name} = alloca i32" for name in (RELEASED, STANDING, STOPPED)]
    return [*masks, f"{SITE} = alloca i64"] if e.kernel.analysis.waits else []


def begin(e: Emitter) -> None:
    """Nobody has waited yet."""
    if e.kernel.analysis.waits:
        e.text.line(f"store i32 0, ptr {RELEASED}")
        e.text.line(f"store i32 0, ptr {STANDING}")


def released(e: Emitter) -> str:
    """The lanes that may pass the barrier that they stand at."""
    return e.text.op(f"load i32, ptr {RELEASED}")


def stand(e: Emitter, lanes: str) -> None:
    """Lanes begin to wait for a barrier's block."""
    standing = e.text.op(f"load i32, ptr {STANDING}")
    e.text.line(f"store i32 {e.one.binary('or', 'i32', standing, lanes)}, ptr {STANDING}")


def enter(e: Emitter) -> None:
    """The current block's lanes no longer wait for it."""
    if e.kernel.analysis.may_wait(e.function.region, e.block.code.number):
        standing = e.text.op(f"load i32, ptr {STANDING}")
        others = e.one.binary("xor", "i32", active_lanes(e), "-1")
        e.text.line(f"store i32 {e.one.binary('and', 'i32', standing, others)}, ptr {STANDING}")


def wait(e: Emitter, item: Instruction, members: str, missing: str) -> None:
    """At the start of the barrier's block: go on if no member runs elsewhere, else let such a block run."""
    region, text, one, number = e.function.region, e.text, e.one, e.block.code.number
    here = active_lanes(e)
    opened = released(e)
    # Who has been released is on the way, though it stands there still.
    standing = text.op(f"load i32, ptr {STANDING}")
    waiting = one.binary("and", "i32", standing, one.binary("xor", "i32", opened, "-1"))
    first = one.binary("and", "i32", here, opened)
    is_open = one.compare("ne", "i32", first, "0")
    missing = one.binary("and", "i32", missing, members)
    running = one.binary("and", "i32", missing, one.binary("xor", "i32", waiting, "-1"))
    none = one.compare("eq", "i32", running, "0")
    passing, stopping = text.label("pass"), text.label("wait")
    text.likely(one.binary("or", "i1", is_open, none), passing, stopping)
    text.place(stopping)
    set_waiting(e, number, here)
    stand(e, here)
    text.line(f"store i32 {here}, ptr {STOPPED}")
    text.line(f"store i64 {e.site(item, item.name)}, ptr {SITE}")
    e.search("stopped", region.pending[number])
    text.place(passing)
    # Those whose barrier has opened already go alone; the others come next time.
    e.block.mask = one.select(is_open, "i32", first, here)
    gone = one.binary("xor", "i32", e.block.mask, "-1")
    kept = one.binary("and", "i32", here, gone)
    set_waiting(e, number, kept)
    stand(e, kept)
    # Who has passed starts anew; who waits at another barrier of the same members may pass it.
    met = one.select(is_open, "i32", "0", one.binary("and", "i32", missing, waiting))
    left = one.binary("or", "i32", one.binary("and", "i32", opened, gone), met)
    text.line(f"store i32 {left}, ptr {RELEASED}")


def nobody_runs(e: Emitter) -> None:
    """The end of a search for lanes that can go on while others have stopped."""
    lanes = e.one.resize("i32", e.text.op(f"load i32, ptr {STOPPED}"), "i64")
    e.fault(Fault.DIVERGENT_WARP, e.text.op(f"load i64, ptr {SITE}"), lanes)
