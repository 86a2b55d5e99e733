"""How lanes move between a region's blocks, and how they leave it.

Each block that lanes can wait for has a mask of those that do. At a block's end the lanes are handed to their
targets' masks, and whichever waiting block comes first in the region's order runs next.
"""

from nnkit.ptx.ir import Guard, PtxError
from nnkit.vm.analysis.blocks import Block
from nnkit.vm.code.fuel import burn
from nnkit.vm.code.searches import end_strand, search
from nnkit.vm.emit import strands
from nnkit.vm.emit.emitter import Emitter
from nnkit.vm.emit.frames import store_word, suspend, this_strand
from nnkit.vm.emit.masks import (
    active_lanes,
    every_lane,
    living_lanes,
    no_lane,
    set_living,
    set_waiting,
    waiting_lanes,
)
from nnkit.vm.emit.operands import value_of
from nnkit.vm.instructions import calls, warp_wait
from nnkit.vm.text.layout import Fault, Worker


def leave(e: Emitter) -> None:
    """The block's ending: branch on scalars, or hand the lanes to the blocks they wait for."""
    e.flush()
    block = e.block.code
    if block.ending == "barrier":
        calls.arrive(e, block)
        _barrier(e, block)
    elif block.ending == "exit":
        _exit(e)
    elif block.ending == "jump":
        _go(e, [(block.targets[0], active_lanes(e))])
    elif block.ending == "branch":
        _branch(e, block)
    else:
        _switch(e, block)


def _exit(e: Emitter) -> None:
    strands.missed(e)
    if e.function.region.pending[e.block.code.number]:
        _leave_to_others(e)
    else:
        end_strand(e)


def _leave_to_others(e: Emitter) -> None:
    """The current lanes no longer belong to the strand; those that wait elsewhere go on."""
    kept = e.one.binary("xor", f"i{e.width}", active_lanes(e), every_lane(e.width))
    set_living(e, e.one.binary("and", f"i{e.width}", living_lanes(e), kept))
    search(e, e.function.region.pending[e.block.code.number], -1)


def _barrier(e: Emitter, block: Block) -> None:
    """Save what is needed behind the barrier and stop; every lane that lives must be here, or may part."""
    text, region = e.text, e.function.region
    assert block.last is not None
    strands.meet(e)
    word = calls.barrier_word(e, block.last)
    if region.pending[block.number]:
        together = text.label("together")
        apart = text.label("apart")
        same = e.one.compare("eq", f"i{e.width}", active_lanes(e), living_lanes(e))
        text.likely(same, together, apart)
        text.place(apart)
        if e.kernel.analysis.may_part(region, block.number):
            strands.part(e, word)
            _leave_to_others(e)
        else:
            e.fault(Fault.DIVERGENT_BARRIER, e.site(block.last, "barrier"), e.mask64())
        text.place(together)
    strand = this_strand(e)
    suspend(e, block.targets[0], strand, living_lanes(e))
    store_word(e, Worker.BARRIER, strand, word)
    # A loop around a barrier never jumps backwards inside a region.
    burn(e, e.kernel.analysis.size(region))
    text.jump("next.vector")


def go_on_in(e: Emitter, entry: int) -> None:
    """Hand the whole strand to another region, without waiting."""
    if e.function.region.pending[entry]:
        raise PtxError("a region was split where lanes wait")
    suspend(e, entry, this_strand(e), living_lanes(e))
    e.text.jump("next.vector")


def _branch(e: Emitter, block: Block) -> None:
    assert block.last is not None
    guard = block.last.guard
    assert isinstance(guard, Guard)
    taken, other = block.targets
    value = e.read(guard.register.name)
    if taken == other:
        _go(e, [(taken, active_lanes(e))])
        return
    if value.shape.kind == "uniform":
        yes, no = e.text.label("yes"), e.text.label("no")
        then, otherwise = (no, yes) if guard.negated else (yes, no)
        e.text.branch(value.scalar, then, otherwise)
        for label, target in ((yes, taken), (no, other)):
            e.text.place(label)
            _go(e, [(target, active_lanes(e))])
        return
    kind = f"i{e.width}"
    here = active_lanes(e)
    true = e.one.binary("and", kind, e.as_mask(e.vector(value)), here)
    false = e.one.binary("xor", kind, true, here)
    masks = [(taken, false if guard.negated else true), (other, true if guard.negated else false)]
    _go(e, masks)


def _switch(e: Emitter, block: Block) -> None:
    """brx.idx: the index picks a label of the table."""
    assert block.last is not None
    index = value_of(e, block.last.operands[0], "u32")
    if index.shape.kind == "uniform":
        labels = {target: e.text.label("case") for target in block.targets}
        nowhere = e.text.label("nowhere")
        cases = " ".join(f"i32 {i}, label %{labels[target]}" for i, target in enumerate(block.targets))
        e.text.line(f"switch i32 {index.scalar}, label %{nowhere} [ {cases} ]")
        e.text.place(nowhere)
        e.fault(Fault.TRAP, e.site(block.last, "a jump outside its table"), e.mask64())
        for target, label in labels.items():
            e.text.place(label)
            _go(e, [(target, active_lanes(e))])
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
    _go(e, masks)


def _go(e: Emitter, masks: list[tuple[int, str]]) -> None:
    """Hand lanes to their targets and run whichever waiting block comes first in the order."""
    region = e.function.region
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
    search(e, waiting, max(places))
