"""A strand's frame: what outlives a barrier while others of the block run.

A vector is one strand until its lanes wait at different barriers, see `nnkit.vm.emit.strands`.
"""

from collections.abc import Iterator

from nnkit.vm.emit.emitter import Emitter
from nnkit.vm.emit.frame_layout import aligned, has_vector, vector_bytes
from nnkit.vm.text.builder import BITS
from nnkit.vm.text.layout import Worker


def frame_place(e: Emitter, strand: str, offset: int) -> str:
    """A place in a strand's frame."""
    frames = e.worker_field(Worker.FRAMES, "ptr")
    start = e.text.op(f"mul i64 {strand}, {e.kernel.frame.size}")
    at = e.text.op(f"add i64 {start}, {offset}")
    return e.text.op(f"getelementptr i8, ptr {frames}, i64 {at}")


def frame_slots(e: Emitter, name: str) -> list[tuple[str, str, int]]:
    """(slot, type, offset) of everything saved for one register."""
    kind, shape, frame = e.kind(name), e.kernel.analysis.shape(name), e.kernel.frame
    offset = frame.offsets[name]
    slots = [(e.slot("u", name), "i32", frame.suspects[name])] if name in frame.suspects else []
    if not has_vector(e.kernel.analysis, name):
        return [*slots, (e.slot("s", name), kind, offset)]
    slots.append((e.slot("v", name), e.all.type(kind), offset))
    if shape.kind == "likely":
        behind = aligned(offset + vector_bytes(BITS[kind], e.width), 8)
        slots += [(e.slot("s", name), kind, behind), (e.slot("f", name), "i1", behind + 8)]
    return slots


def _places(e: Emitter, name: str, strand: str) -> Iterator[tuple[str, str, str]]:
    """(slot, type, place in the frame) of everything saved for a register; the place with its alignment."""
    for slot, kind, offset in frame_slots(e, name):
        whole = kind[0] == "<" and e.width * BITS[e.kind(name)] >= 512
        align = ", align 64" if offset % 64 == 0 and whole else ""
        yield slot, kind, f"{frame_place(e, strand, offset)}{align}"


def restore(e: Emitter, name: str, strand: str) -> None:
    """Fetch a register from the strand's frame."""
    for slot, kind, place in _places(e, name, strand):
        value = e.text.op(f"load {kind}, ptr {place}")
        e.text.line(f"store {kind} {value}, ptr {slot}")


def _save(e: Emitter, names: set[str], strand: str) -> None:
    for name in sorted(names & e.kernel.frame.offsets.keys()):
        for slot, kind, place in _places(e, name, strand):
            value = e.text.op(f"load {kind}, ptr {slot}")
            e.text.line(f"store {kind} {value}, ptr {place}")


def this_strand(e: Emitter) -> str:
    """The number of the strand that runs."""
    return e.text.op(f"load i64, ptr {e.kernel.strand}")


def suspend(e: Emitter, entry: int, strand: str, alive: str) -> None:
    """Save what the region that begins at a block needs, and say that a strand goes on there.

    Its frame is the one that this region was entered with, or a copy of it.
    """
    region = e.function.region
    target = next(r for r in e.kernel.analysis.regions if r.entry == entry and r.number)
    live = e.kernel.analysis.live[entry]
    # What this region received and never wrote is still in the frame.
    same = (
        e.kernel.analysis.live[region.entry] - e.kernel.analysis.written_in(region)
        if region.number
        else set()
    )
    _save(e, live - same, strand)
    if not e.kernel.analysis.full:
        store_word(e, Worker.ALIVE, strand, e.one.resize(f"i{e.width}", alive, "i64"))
    store_resume(e, strand, target.number)


def store_resume(e: Emitter, strand: str, region: int) -> None:
    """Say where a strand goes on: in a region, or nowhere, ENDED."""
    place = e.text.op(f"getelementptr i32, ptr {e.worker_field(Worker.RESUME, 'ptr')}, i64 {strand}")
    e.text.line(f"store i32 {region}, ptr {place}")


def store_word(e: Emitter, table: Worker, strand: str, value: str) -> None:
    """Write a strand's word of 64 bits in one of the worker's tables."""
    place = e.text.op(f"getelementptr i64, ptr {e.worker_field(table, 'ptr')}, i64 {strand}")
    e.text.line(f"store i64 {value}, ptr {place}")
