"""Whether a kernel relies on the threads of a warp going in step.

Threads that tell each other something through memory must meet at a barrier in between. Older code leaves out
the barriers inside of a warp: GPUs ran an instruction for the whole warp before the next one, and `volatile`,
or a fence, kept the compiler from holding values in registers. Who writes these means memory that others see
at once. Such a kernel runs on vectors that are warps, and they do go in step.
"""

from dataclasses import dataclass, field

from nnkit.ptx.ir import Function, Instruction
from nnkit.vm.analysis.blocks import Block, build
from nnkit.vm.analysis.order import ordered
from nnkit.vm.forms.form import Effect
from nnkit.vm.forms.table import form_of
from nnkit.vm.memory.access import access_of

SEEN_IN = {"shared": ("shared",), "global": ("global",), "generic": ("shared", "global")}
"""Where an access may meet those of other threads; what is not here is a thread's own, or constant."""


@dataclass
class _Traffic:
    """How often one memory is accessed between two barriers, in whatever order."""

    reads: int = 0
    writes: int = 0
    volatile: int = 0


@dataclass
class _Interval:
    """What a thread may do from one barrier to the next."""

    traffic: dict[str, _Traffic] = field(default_factory=lambda: {"shared": _Traffic(), "global": _Traffic()})
    fence: bool = False
    narrow_fence: bool = False
    """One that is for the block alone: no other block is meant by it."""

    def note(self, item: Instruction) -> None:
        """Add one instruction."""
        if fence := _fence(item):
            self.fence = True
            self.narrow_fence |= fence == "block"
            return
        access = access_of(item)
        if access is None:
            return
        for space in SEEN_IN.get(access.space, ()):
            seen = self.traffic[space]
            seen.writes += access.writes
            seen.reads += access.reads
            seen.volatile += "volatile" in item.modifiers

    @property
    def needs_step(self) -> bool:
        """Whether a volatile access can meet a write, or a fence stands among reads and writes."""
        return any(
            (seen.volatile and seen.writes and seen.reads + seen.writes > 1)
            or (seen.reads and seen.writes and (self.fence if space == "shared" else self.narrow_fence))
            for space, seen in self.traffic.items()
        )


def _fence(item: Instruction) -> str:
    """Whose threads a fence is for, "" if it is none."""
    form = form_of(item)
    return form.fence if isinstance(form, Effect) else ""


def relies_on_step(function: Function) -> bool:
    """Whether threads of a warp may tell each other something without a barrier between them."""
    items = [item for item in function.body or [] if isinstance(item, Instruction)]
    if not any("volatile" in item.modifiers or _fence(item) for item in items):
        return False
    blocks = build(function)
    within = {b.number: () if b.ending == "barrier" else b.targets for b in blocks}
    starts = {0, *(b.targets[0] for b in blocks if b.ending == "barrier")}
    return any(_from(start, blocks, within).needs_step for start in starts)


def _from(start: int, blocks: list[Block], within: dict[int, tuple[int, ...]]) -> _Interval:
    interval = _Interval()
    for number in ordered(start, within):
        for item in blocks[number].instructions:
            interval.note(item)
    return interval
