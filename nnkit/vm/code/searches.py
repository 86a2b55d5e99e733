"""Which of the blocks that lanes wait for runs next: the first in the region's order that has some."""

from nnkit.vm.code.fuel import burn
from nnkit.vm.emit.emitter import Emitter
from nnkit.vm.emit.frames import store_resume, this_strand
from nnkit.vm.emit.masks import no_lane, waiting_lanes
from nnkit.vm.instructions import warp_wait
from nnkit.vm.text.layout import ENDED

LONG = 8
"""Blocks to look through for lanes above which that is done in code that all blocks share."""


def search(e: Emitter, waiting: int, last: int) -> None:
    """Jump to the first of the waiting blocks, by place in the order, that has lanes.

    The block at place `last` has some if none before it has; where that is -1, all may have left the kernel.
    """
    region = e.function.region
    if last >= 0:
        waiting &= (2 << last) - 1
    if waiting.bit_count() > LONG:
        e.search("search", waiting)
        return
    while waiting:
        place = (waiting & -waiting).bit_length() - 1
        target = region.order[place]
        if place == last:
            _jump(e, target)
            return
        some = _has_lanes(e, target)
        here, on = e.text.label("go"), e.text.label("on")
        e.text.branch(some, here, on)
        e.text.place(here)
        _jump(e, target)
        e.text.place(on)
        waiting &= waiting - 1
    end_strand(e)


def end_strand(e: Emitter) -> None:
    """Nobody is left in this strand."""
    store_resume(e, this_strand(e), ENDED)
    e.text.jump("next.vector")


def _has_lanes(e: Emitter, target: int, among: str = "") -> str:
    """Whether lanes wait for a block."""
    mask = waiting_lanes(e, target)
    if among:
        mask = e.one.binary("and", f"i{e.width}", mask, among)
    return e.one.compare("ne", f"i{e.width}", mask, no_lane(e.width))


def _jump(e: Emitter, target: int) -> None:
    """Backwards costs fuel, so that an endless loop can be stopped."""
    analysis, region, here = e.kernel.analysis, e.function.region, e.block.code.number
    if region.place[target] > region.place[here] or analysis.is_way_out(target):
        e.text.jump(f"block{target}")
        return
    if analysis.may_wait(region, target):
        # Many blocks lead back to it.
        e.text.jump(_way_back(e, target))
        return
    burn(e, analysis.size(region, region.place[target], region.place[here] + 1))
    e.text.jump(f"block{target}")


def _way_back(e: Emitter, target: int) -> str:
    """The label of a way to a block that costs fuel; its code is there once."""
    if e.kernel.analysis.is_way_out(target):
        return f"block{target}"
    e.function.returns.add(target)
    return f"return{target}"


def emit_searches(e: Emitter) -> None:
    """The searches that blocks share: each looks at one block and goes on with the search behind it.

    All blocks with a mask are looked at: those for which nobody can be waiting have none.
    """
    analysis, region = e.kernel.analysis, e.function.region
    for name, all_wait in (("search", False), ("stopped", True)):
        if not e.function.searches[name]:
            continue
        masked = sorted(region.place[block] for block in region.masked)
        places = [place for place in masked if place >= min(e.function.searches[name])]
        for place, following in zip(places, [*places[1:], -1], strict=True):
            target = region.order[place]
            e.text.place(f"{name}{place}")
            on = f"{name}{following}" if following >= 0 else f"{name}.end"
            if all_wait and analysis.blocks[target].ending == "barrier":
                e.text.jump(on)
                continue
            there = f"block{target}"
            if all_wait or (region.headers | region.may_wait) >> place & 1:
                # For some of those who come this is a way back.
                there = _way_back(e, target)
            kept = warp_wait.released(e) if all_wait and analysis.may_wait(region, target) else ""
            e.text.branch(_has_lanes(e, target, kept), there, on)
        e.text.place(f"{name}.end")
        (warp_wait.nobody_runs if all_wait else end_strand)(e)


def emit_returns(e: Emitter) -> None:
    """The ways back to blocks that many others lead back to, or that a shared search may lead back to."""
    region = e.function.region
    for target in sorted(e.function.returns):
        e.begin_block(e.kernel.analysis.blocks[target])
        e.text.place(f"return{target}")
        burn(e, e.kernel.analysis.size(region, region.place[target]))
        e.text.jump(f"block{target}")
