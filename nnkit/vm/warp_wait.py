"""Waiting at a barrier of a warp (`__syncwarp`) until the members that went another way come or leave.

Lanes of a vector go through the blocks in one order. So those that have gone another way are made to run
first: the lanes in front of the barrier wait for its block once more, and one that others wait for runs.
Members come together at any barrier of the warp, not only at the same one: who waits at another than the one
that opens is released there too, and does not wait again when its turn comes.
"""

from nnkit.ptx.ir import Instruction
from nnkit.vm.emitter import Emitter
from nnkit.vm.layout import Fault

RELEASED = "%released"


def slots(e: Emitter) -> list[str]:
    """The stack slot with the lanes for which the barrier that they wait at has opened."""
    return [f"{RELEASED} = alloca i32"] if e.analysis.waits else []


def begin(e: Emitter) -> None:
    """Nobody has waited yet."""
    if e.analysis.waits:
        e.text.line(f"store i32 0, ptr {RELEASED}")


def wait(e: Emitter, item: Instruction, members: str, missing: str) -> None:
    """At the start of the barrier's block: go on if no member runs elsewhere, else let such a block run."""
    from nnkit.vm.flow import jump

    region, text, one, number = e.region, e.text, e.one, e.block.number
    here = e.mask or "-1"
    pending = [other for other in region.waiting(number) if other != number]
    released = text.op(f"load i32, ptr {RELEASED}")
    elsewhere = {other: text.op(f"load i32, ptr %mask{other}") for other in pending}
    waiting = "0"
    for other in pending:
        if e.analysis.may_wait(region, other):
            waiting = one.binary("or", "i32", waiting, elsewhere[other])
            elsewhere[other] = one.binary("and", "i32", elsewhere[other], released)
    # Who has been released is on the way, though it stands there still.
    waiting = one.binary("and", "i32", waiting, one.binary("xor", "i32", released, "-1"))
    first = one.binary("and", "i32", here, released)
    is_open = one.compare("ne", "i32", first, "0")
    missing = one.binary("and", "i32", missing, members)
    running = one.binary("and", "i32", missing, one.binary("xor", "i32", waiting, "-1"))
    none = one.compare("eq", "i32", running, "0")
    passing, stopping = text.label("pass"), text.label("wait")
    text.likely(one.binary("or", "i1", is_open, none), passing, stopping)
    text.place(stopping)
    text.line(f"store i32 {here}, ptr %mask{number}")
    for other in pending:
        if e.analysis.blocks[other].ending != "barrier":
            some = one.compare("ne", "i32", elsewhere[other], "0")
            run, on = text.label("run"), text.label("on")
            text.branch(some, run, on)
            text.place(run)
            jump(e, region, other)
            text.place(on)
    e.fault(Fault.DIVERGENT_WARP, e.site(item, item.name), e.mask64())
    text.place(passing)
    # Those whose barrier has opened already go alone; the others come next time.
    e.mask = one.select(is_open, "i32", first, here)
    gone = one.binary("xor", "i32", e.mask, "-1")
    text.line(f"store i32 {one.binary('and', 'i32', here, gone)}, ptr %mask{number}")
    # Who has passed starts anew; who waits at another barrier of the same members may pass it.
    met = one.select(is_open, "i32", "0", one.binary("and", "i32", missing, waiting))
    left = one.binary("or", "i32", one.binary("and", "i32", released, gone), met)
    text.line(f"store i32 {left}, ptr {RELEASED}")
