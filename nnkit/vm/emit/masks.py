"""Masks: an integer with a bit for each lane of the vector, of those that run, live, or wait for a block."""

from nnkit.vm.emit.emitter import Emitter

VOLATILE = "$volatile "
"""Stands in each access to the lanes that wait for a block until `waiting_in_memory` fills it."""


def every_lane(width: int) -> str:
    """The mask of all lanes, as a literal."""
    return "true" if width == 1 else "-1"


def no_lane(width: int) -> str:
    """The mask of no lane, as a literal."""
    return "false" if width == 1 else "0"


def active_lanes(e: Emitter) -> str:
    """The current block's lanes."""
    return e.block.mask or every_lane(e.width)


def lane_count(e: Emitter, mask: str) -> str:
    """How many lanes a mask has, as an i64; "" is that of all."""
    return e.one.call("ctpop", "i64", e.one.resize(f"i{e.width}", mask, "i64")) if mask else str(e.width)


def living_lanes(e: Emitter) -> str:
    """The strand's lanes that have not left the kernel."""
    return e.text.op(f"load i{e.width}, ptr %alive")


def set_living(e: Emitter, mask: str) -> None:
    """Say which of the strand's lanes have not left the kernel."""
    e.text.line(f"store i{e.width} {mask}, ptr %alive")


def waiting_lanes(e: Emitter, block: int) -> str:
    """The lanes that wait for a block."""
    return e.text.op(f"load {VOLATILE}i{e.width}, ptr %mask{block}")


def set_waiting(e: Emitter, block: int, mask: str) -> None:
    """Say which lanes wait for a block."""
    e.text.line(f"store {VOLATILE}i{e.width} {mask}, ptr %mask{block}")


def waiting_in_memory(e: Emitter, lines: list[str]) -> str:
    """A function's text, in which the lanes that wait for blocks stay in memory or become values.

    Where all blocks lead to shared searches, and these to all blocks, LLVM would merge every mask at each
    block: there they stay. Only when all blocks are emitted it is known whether they share any.
    """
    shared = any(e.function.searches.values())
    return "\n".join(lines).replace(VOLATILE, "volatile " if shared else "")
