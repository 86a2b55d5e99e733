"""A strand's frame: what outlives a barrier while others of the block run.

A vector is one strand until its lanes wait at different barriers, see `nnkit.vm.emit.strands`.
"""

from collections.abc import Iterator

from nnkit.vm.analysis.regions import Region
from nnkit.vm.emit.emitter import Emitter
from nnkit.vm.text.builder import BITS
from nnkit.vm.text.layout import Worker


def frame_place(e: Emitter, strand: str, offset: int) -> str:
    """A place in a strand's frame."""
    frames = e.worker_field(Worker.FRAMES, "ptr")
    start = e.text.op(f"mul i64 {strand}, {e.frame_size}")
    at = e.text.op(f"add i64 {start}, {offset}")
    return e.text.op(f"getelementptr i8, ptr {frames}, i64 {at}")


def _places(e: Emitter, name: str, strand: str) -> Iterator[tuple[str, str, str]]:
    """(slot, type, place in the frame) of everything saved for a register; the place with its alignment."""
    for slot, kind, offset in e.frame_slots(name):
        whole = kind[0] == "<" and e.width * BITS[e.kind(name)] >= 512
        align = ", align 64" if offset % 64 == 0 and whole else ""
        yield slot, kind, f"{frame_place(e, strand, offset)}{align}"


def restore(e: Emitter, name: str, strand: str) -> None:
    """Fetch a register from the strand's frame."""
    for slot, kind, place in _places(e, name, strand):
        value = e.text.op(f"load {kind}, ptr {place}")
        e.text.line(f"store {kind} {value}, ptr {slot}")


def _save(e: Emitter, names: set[str], strand: str) -> None:
    for name in sorted(names & e.frame_offsets.keys()):
        for slot, kind, place in _places(e, name, strand):
            value = e.text.op(f"load {kind}, ptr {slot}")
            e.text.line(f"store {kind} {value}, ptr {place}")


def current(e: Emitter) -> str:
    """The number of the strand that runs."""
    return e.text.op(f"load i64, ptr {e.strand}")


def suspend(e: Emitter, region: Region, entry: int, strand: str, alive: str) -> None:
    """Save what the region that begins at a block needs, and say that a strand goes on there.

    Its frame is the one that this region was entered with, or a copy of it.
    """
    target = next(r for r in e.analysis.regions if r.entry == entry and r.number)
    live = e.analysis.live[entry]
    # What this region received and never wrote is still in the frame.
    same = e.analysis.live[region.entry] - e.analysis.written_in(region) if region.number else set()
    _save(e, live - same, strand)
    if not e.analysis.full:
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


def alive_mask(e: Emitter) -> str:
    """The strand's lanes that have not left the kernel."""
    return e.text.op(f"load i{e.width}, ptr %alive")
