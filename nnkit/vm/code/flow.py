"""How lanes move between a region's blocks, and how they leave it.

Each block that lanes can wait for has a mask of those that do. At a block's end the lanes are handed to their
targets' masks, and whichever waiting block comes first in the region's order runs next.
"""

from nnkit.ptx.ir import Guard, Immediate, Instruction, PtxError
from nnkit.vm.analysis.blocks import Block
from nnkit.vm.analysis.regions import Region
from nnkit.vm.emit import strands
from nnkit.vm.emit.emitter import Emitter
from nnkit.vm.emit.frames import store_resume, store_word, suspend, this_strand
from nnkit.vm.emit.masks import (
    active_lanes,
    every_lane,
    living_lanes,
    no_lane,
    set_living,
    set_waiting,
    waiting_lanes,
)
from nnkit.vm.instructions import calls, warp_wait
from nnkit.vm.text.layout import ENDED, Context, Fault, Worker

LONG = 8
"""Blocks to look through for lanes above which that is done in code that all blocks share."""


def leave(e: Emitter, region: Region, block: Block) -> None:
    """The block's ending: branch on scalars, or hand the lanes to the blocks they wait for."""
    e.flush()
    if block.ending == "barrier":
        calls.arrive(e, block)
        _barrier(e, region, block)
    elif block.ending == "exit":
        _exit(e, region)
    elif block.ending == "jump":
        _go(e, region, [(block.targets[0], active_lanes(e))])
    elif block.ending == "branch":
        _branch(e, region, block)
    else:
        _switch(e, region, block)


def _exit(e: Emitter, region: Region) -> None:
    strands.missed(e)
    if region.pending[e.block.code.number]:
        _leave_to_others(e, region)
    else:
        _end(e)


def _leave_to_others(e: Emitter, region: Region) -> None:
    """The current lanes no longer belong to the strand; those that wait elsewhere go on."""
    kept = e.one.binary("xor", f"i{e.width}", active_lanes(e), every_lane(e.width))
    set_living(e, e.one.binary("and", f"i{e.width}", living_lanes(e), kept))
    _search(e, region, region.pending[e.block.code.number], -1)


def _end(e: Emitter) -> None:
    """Nobody is left in this strand."""
    store_resume(e, this_strand(e), ENDED)
    e.text.jump("next.vector")


def _barrier(e: Emitter, region: Region, block: Block) -> None:
    """Save what is needed behind the barrier and stop; every lane that lives must be here, or may part."""
    text = e.text
    assert block.last is not None
    strands.meet(e, block)
    word = calls.barrier_word(e, block.last)
    if region.pending[block.number]:
        together = text.label("together")
        apart = text.label("apart")
        same = e.one.compare("eq", f"i{e.width}", active_lanes(e), living_lanes(e))
        text.likely(same, together, apart)
        text.place(apart)
        if e.kernel.analysis.may_part(region, block.number):
            strands.part(e, region, block, word)
            _leave_to_others(e, region)
        else:
            e.fault(Fault.DIVERGENT_BARRIER, e.site(block.last, "barrier"), e.mask64())
        text.place(together)
    strand = this_strand(e)
    suspend(e, region, block.targets[0], strand, living_lanes(e))
    store_word(e, Worker.BARRIER, strand, word)
    # A loop around a barrier never jumps backwards inside a region.
    _burn(e, e.kernel.analysis.size(region))
    text.jump("next.vector")


def go_on_in(e: Emitter, region: Region, entry: int) -> None:
    """Hand the whole strand to another region, without waiting."""
    if region.pending[entry]:
        raise PtxError("a region was split where lanes wait")
    suspend(e, region, entry, this_strand(e), living_lanes(e))
    e.text.jump("next.vector")


def _branch(e: Emitter, region: Region, block: Block) -> None:
    assert block.last is not None
    guard = block.last.guard
    assert isinstance(guard, Guard)
    taken, other = block.targets
    value = e.read(guard.register.name)
    if taken == other:
        _go(e, region, [(taken, active_lanes(e))])
        return
    if value.shape.kind == "uniform":
        yes, no = e.text.label("yes"), e.text.label("no")
        then, otherwise = (no, yes) if guard.negated else (yes, no)
        e.text.branch(value.scalar, then, otherwise)
        for label, target in ((yes, taken), (no, other)):
            e.text.place(label)
            _go(e, region, [(target, active_lanes(e))])
        return
    kind = f"i{e.width}"
    here = active_lanes(e)
    true = e.one.binary("and", kind, e.as_mask(e.vector(value)), here)
    false = e.one.binary("xor", kind, true, here)
    masks = [(taken, false if guard.negated else true), (other, true if guard.negated else false)]
    _go(e, region, masks)


def _switch(e: Emitter, region: Region, block: Block) -> None:
    """brx.idx: the index picks a label of the table."""
    assert block.last is not None
    index = e.operand(block.last.operands[0], "u32")
    if index.shape.kind == "uniform":
        labels = {target: e.text.label("case") for target in block.targets}
        nowhere = e.text.label("nowhere")
        cases = " ".join(f"i32 {i}, label %{labels[target]}" for i, target in enumerate(block.targets))
        e.text.line(f"switch i32 {index.scalar}, label %{nowhere} [ {cases} ]")
        e.text.place(nowhere)
        e.fault(Fault.TRAP, e.site(block.last, "a jump outside its table"), e.mask64())
        for target, label in labels.items():
            e.text.place(label)
            _go(e, region, [(target, active_lanes(e))])
        return
    vector, here = e.vector(index), active_lanes(e)
    kind = f"i{e.width}"
    size = e.all.constant("i32", len(block.targets))
    outside = e.one.binary("and", kind, e.as_mask(e.all.compare("uge", "i32", vector, size)), here)
    lost, fine = e.text.label("nowhere"), e.text.label("inside")
    e.text.likely(e.one.compare("eq", kind, outside, no_lane(e.width)), fine, lost)
    e.text.place(lost)
    mask = e.one.resize(kind, outside, "i64")
    e.fault(Fault.TRAP, e.site(block.last, "a jump outside its table"), mask)
    e.text.place(fine)
    masks = []
    for i, target in enumerate(block.targets):
        chosen = e.as_mask(e.all.compare("eq", "i32", vector, e.all.constant("i32", i)))
        masks.append((target, e.one.binary("and", f"i{e.width}", chosen, here)))
    _go(e, region, masks)


def _go(e: Emitter, region: Region, masks: list[tuple[int, str]]) -> None:
    """Hand lanes to their targets and run whichever waiting block comes first in the order."""
    for target, mask in masks:
        if target in region.masked:
            old = waiting_lanes(e, target)
            set_waiting(e, target, e.one.binary("or", f"i{e.width}", old, mask))
            if region.may_wait >> region.place[target] & 1:
                warp_wait.stand(e, mask)
    places = {region.place[target] for target, _ in masks}
    waiting = region.pending[e.block.code.number]
    for place in places:
        waiting |= 1 << place
    _search(e, region, waiting, max(places))


def _search(e: Emitter, region: Region, waiting: int, last: int) -> None:
    """Jump to the first of the waiting blocks that has lanes.

    The block at place `last` has some if none before it has; where that is -1, all may have left the kernel.
    """
    if last >= 0:
        waiting &= (2 << last) - 1
    if waiting.bit_count() > LONG:
        e.search("search", waiting)
        return
    while waiting:
        place = (waiting & -waiting).bit_length() - 1
        target = region.order[place]
        if place == last:
            jump(e, region, target)
            return
        some = _has_lanes(e, target)
        here, on = e.text.label("go"), e.text.label("on")
        e.text.branch(some, here, on)
        e.text.place(here)
        jump(e, region, target)
        e.text.place(on)
        waiting &= waiting - 1
    _end(e)


def _has_lanes(e: Emitter, target: int, among: str = "") -> str:
    """Whether lanes wait for a block."""
    mask = waiting_lanes(e, target)
    if among:
        mask = e.one.binary("and", f"i{e.width}", mask, among)
    return e.one.compare("ne", f"i{e.width}", mask, no_lane(e.width))


def emit_searches(e: Emitter, region: Region) -> None:
    """The searches that blocks share: each looks at one block and goes on with the search behind it.

    All blocks with a mask are looked at: those for which nobody can be waiting have none.
    """
    for name, all_wait in (("search", False), ("stopped", True)):
        if not e.function.searches[name]:
            continue
        masked = sorted(region.place[block] for block in region.masked)
        places = [place for place in masked if place >= min(e.function.searches[name])]
        for place, following in zip(places, [*places[1:], -1], strict=True):
            target = region.order[place]
            e.text.place(f"{name}{place}")
            on = f"{name}{following}" if following >= 0 else f"{name}.end"
            if all_wait and e.kernel.analysis.blocks[target].ending == "barrier":
                e.text.jump(on)
                continue
            there = f"block{target}"
            if all_wait or (region.headers | region.may_wait) >> place & 1:
                # For some of those who come this is a way back.
                there = way_back(e, target)
            kept = warp_wait.released(e) if all_wait and e.kernel.analysis.may_wait(region, target) else ""
            e.text.branch(_has_lanes(e, target, kept), there, on)
        e.text.place(f"{name}.end")
        (warp_wait.nobody_runs if all_wait else _end)(e)


def way_back(e: Emitter, target: int) -> str:
    """The label of a way to a block that costs fuel; its code is there once."""
    if e.kernel.analysis.is_way_out(target):
        return f"block{target}"
    e.function.returns.add(target)
    return f"return{target}"


def jump(e: Emitter, region: Region, target: int) -> None:
    """Backwards costs fuel, so that an endless loop can be stopped."""
    if region.place[target] > region.place[e.block.code.number] or e.kernel.analysis.is_way_out(target):
        e.text.jump(f"block{target}")
        return
    if e.kernel.analysis.may_wait(region, target):
        # Many blocks lead back to it.
        e.text.jump(way_back(e, target))
        return
    _burn(e, e.kernel.analysis.size(region, region.place[target], region.place[e.block.code.number] + 1))
    e.text.jump(f"block{target}")


def emit_returns(e: Emitter, region: Region) -> None:
    """The ways back to warps' barriers at which lanes wait."""
    for target in sorted(e.function.returns):
        e.begin_block(e.kernel.analysis.blocks[target])
        e.text.place(f"return{target}")
        _burn(e, e.kernel.analysis.size(region, region.place[target]))
        e.text.jump(f"block{target}")


def _burn(e: Emitter, cost: int) -> None:
    """Use fuel: where none is left, ask for more, or stop."""
    fuel = e.text.op("load i64, ptr %fuel")
    left = e.text.op(f"sub i64 {fuel}, {cost}")
    e.text.line(f"store i64 {left}, ptr %fuel")
    some = e.text.op(f"icmp sgt i64 {left}, 0")
    empty, filled, stopped = e.text.label("empty"), e.text.label("filled"), e.text.label("stopped")
    go = e.text.label("fuelled")
    e.text.likely(some, go, empty)
    e.text.place(empty)
    refill = e.context_field(Context.REFILL, "ptr")
    more = e.text.op(f"call i64 {refill}(ptr %ctx, ptr %wk)")
    e.text.branch(e.text.op(f"icmp sgt i64 {more}, 0"), filled, stopped)
    e.text.place(filled)
    e.text.line(f"store i64 {more}, ptr %fuel")
    e.text.jump(go)
    e.text.place(stopped)
    item = e.block.code.last or (e.block.code.instructions[-1] if e.block.code.instructions else _nowhere())
    e.fault(Fault.STOPPED, e.site(item, "stopped"), e.mask64())
    e.text.place(go)


def _nowhere() -> Instruction:
    return Instruction("bra", (), (Immediate(0),))
