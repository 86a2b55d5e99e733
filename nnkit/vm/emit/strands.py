"""Strands: the lanes of a vector that wait at one barrier while others of it wait at another.

Threads arrive at a barrier one by one since compute capability 7.0, and compilers make use of it: NVRTC
unrolls a loop that threads leave in different rounds, and those of one warp then wait at copies of its
barrier. A vector begins as one strand, with the vector's number. Lanes that come to a barrier while others
go on part from them: they get a spare strand, with a frame and a mask of its own, and wait there. Strands
that are let go at the same place become one again: what each may have written for itself is kept for every
lane.

Strand s belongs to vector s mod the number of vectors. A kernel has code for it only where lanes can part.

What the program itself says twice is another matter: `if (c) __syncthreads(); else __syncthreads();` is an
error, and so is leaving the kernel past a barrier at which others of the warp wait. Both end the launch.
"""

from nnkit.vm.emit.emitter import Emitter
from nnkit.vm.emit.frames import store_word, suspend, this_strand
from nnkit.vm.text.layout import Fault, Worker

SITE, LANES, SOURCE = "%parted.site", "%parted.lanes", "%parted.source"
"""The barrier at which lanes have parted from those that run, who they are, and its place in the source."""


def slots(e: Emitter) -> list[str]:
    """Its stack slots."""
    if not e.kernel.analysis.parts:
        return []
    return [f"{name} = alloca i64" for name in (e.kernel.strand, SITE, LANES, SOURCE)]


def begin(e: Emitter, strand: str) -> str:
    """The vector of the strand that begins to run; nobody has parted yet."""
    if not e.kernel.analysis.parts:
        return strand
    vector = e.text.op(f"urem i64 {strand}, {e.kernel.launch.vectors}")
    e.text.line(f"store i64 {vector}, ptr %vector")
    e.text.line(f"store i64 -1, ptr {SOURCE}")
    return vector


def part(e: Emitter, word: str) -> None:
    """The current lanes wait in a strand of their own; the caller goes on with the others."""
    text, block = e.text, e.block.code
    assert block.last is not None
    spare = text.op(f"call i64 @spare(ptr %wk, i64 {this_strand(e)})")
    suspend(e, block.targets[0], spare, e.block.mask)
    store_word(e, Worker.BARRIER, spare, word)
    source = e.kernel.analysis.sources[block.number]
    if source >= 0:
        text.line(f"store i64 {e.site(block.last, 'barrier')}, ptr {SITE}")
        text.line(f"store i64 {e.mask64()}, ptr {LANES}")
        text.line(f"store i64 {source}, ptr {SOURCE}")


def meet(e: Emitter) -> None:
    """At a barrier: those who have parted must wait at a copy of it."""
    if e.kernel.analysis.parts:
        _judge(e, e.kernel.analysis.sources[e.block.code.number])


def missed(e: Emitter) -> None:
    """Where lanes leave the kernel: nobody may have parted from them just now."""
    if e.kernel.analysis.parts:
        _judge(e, None)


def _judge(e: Emitter, allowed: int | None) -> None:
    """Faults if lanes have parted at a barrier of the source, other than the one that is allowed."""
    text = e.text
    source = text.op(f"load i64, ptr {SOURCE}")
    fine = e.one.compare("slt", "i64", source, "0")
    if allowed is not None:
        fine = e.one.binary("or", "i1", fine, e.one.compare("eq", "i64", source, str(allowed)))
    well, ill = text.label("met"), text.label("missed")
    text.likely(fine, well, ill)
    text.place(ill)
    lanes = text.op(f"load i64, ptr {LANES}")
    e.fault(Fault.DIVERGENT_BARRIER, text.op(f"load i64, ptr {SITE}"), lanes)
    text.place(well)


def elsewhere(e: Emitter) -> str:
    """The lanes of the vector that wait in other strands, as 32 bits."""
    lanes = e.text.op(f"call i64 @elsewhere(ptr %wk, i64 {this_strand(e)})")
    return e.one.resize("i64", lanes, "i32")
