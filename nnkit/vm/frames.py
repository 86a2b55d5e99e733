"""A vector's frame: what outlives a barrier while other vectors of the block run."""

from collections.abc import Iterator

from nnkit.vm.builder import BITS
from nnkit.vm.emitter import Emitter
from nnkit.vm.layout import Worker
from nnkit.vm.regions import Region


def _frame_place(e: Emitter, vector: str, offset: int) -> str:
    frames = e.worker_field(Worker.FRAMES, "ptr")
    start = e.text.op(f"mul i64 {vector}, {e.frame_size}")
    at = e.text.op(f"add i64 {start}, {offset}")
    return e.text.op(f"getelementptr i8, ptr {frames}, i64 {at}")


def _places(e: Emitter, name: str, vector: str) -> Iterator[tuple[str, str, str]]:
    """(slot, type, place in the frame) of everything saved for a register; the place with its alignment."""
    for slot, kind, offset in e.frame_slots(name):
        whole = kind[0] == "<" and e.width * BITS[e.kind(name)] >= 512
        align = ", align 64" if offset % 64 == 0 and whole else ""
        yield slot, kind, f"{_frame_place(e, vector, offset)}{align}"


def restore(e: Emitter, name: str, vector: str) -> None:
    """Fetch a register from the vector's frame."""
    for slot, kind, place in _places(e, name, vector):
        value = e.text.op(f"load {kind}, ptr {place}")
        e.text.line(f"store {kind} {value}, ptr {slot}")


def _save(e: Emitter, names: set[str]) -> None:
    vector = e.text.op("load i64, ptr %vector")
    for name in sorted(names & e.frame_offsets.keys()):
        for slot, kind, place in _places(e, name, vector):
            value = e.text.op(f"load {kind}, ptr {slot}")
            e.text.line(f"store {kind} {value}, ptr {place}")


def suspend(e: Emitter, region: Region, entry: int) -> str:
    """Save what the region that begins at a block needs, and say that the vector goes on there."""
    text = e.text
    target = next(r for r in e.analysis.regions if r.entry == entry and r.number)
    live = e.analysis.live[entry]
    # What this region received and never wrote is still in the frame.
    same = e.analysis.live[region.entry] - e.analysis.written_in(region) if region.number else set()
    _save(e, live - same)
    vector = text.op("load i64, ptr %vector")
    if not e.analysis.full:
        table = e.worker_field(Worker.ALIVE, "ptr")
        place = text.op(f"getelementptr i64, ptr {table}, i64 {vector}")
        text.line(f"store i64 {e.one.resize(f'i{e.width}', alive_mask(e), 'i64')}, ptr {place}")
    resume = e.worker_field(Worker.RESUME, "ptr")
    place = text.op(f"getelementptr i32, ptr {resume}, i64 {vector}")
    text.line(f"store i32 {target.number}, ptr {place}")
    return vector


def alive_mask(e: Emitter) -> str:
    """The lanes that have not left the kernel."""
    return e.text.op(f"load i{e.width}, ptr %alive")
