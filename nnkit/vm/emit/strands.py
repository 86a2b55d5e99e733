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

from nnkit.vm.analysis.blocks import Block
from nnkit.vm.analysis.regions import Region
from nnkit.vm.emit.emitter import Emitter
from nnkit.vm.emit.frames import current, frame_place, frame_slots, store_word, suspend
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


def part(e: Emitter, region: Region, block: Block, word: str) -> None:
    """The current lanes wait in a strand of their own; the caller goes on with the others."""
    assert block.last is not None
    text = e.text
    spare = text.op(f"call i64 @spare(ptr %wk, i64 {current(e)})")
    suspend(e, region, block.targets[0], spare, e.block.mask)
    store_word(e, Worker.BARRIER, spare, word)
    source = e.kernel.analysis.sources[block.number]
    if source >= 0:
        text.line(f"store i64 {e.site(block.last, 'barrier')}, ptr {SITE}")
        text.line(f"store i64 {e.mask64()}, ptr {LANES}")
        text.line(f"store i64 {source}, ptr {SOURCE}")


def meet(e: Emitter, block: Block) -> None:
    """At a barrier: those who have parted must wait at a copy of it."""
    if e.kernel.analysis.parts:
        _judge(e, e.kernel.analysis.sources[block.number])


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
    lanes = e.text.op(f"call i64 @elsewhere(ptr %wk, i64 {current(e)})")
    return e.one.resize("i64", lanes, "i32")


def functions(e: Emitter) -> str:
    """What parting and meeting again call, in LLVM IR."""
    if not e.kernel.analysis.parts:
        return ""
    regions = e.kernel.analysis.regions[1:]
    w = Worker
    tables = "\n".join(
        f"  %{name}.ptr = getelementptr i64, ptr %wk, i64 {int(field)}\n  %{name} = load ptr, ptr %{name}.ptr"
        for name, field in (("resume", w.RESUME), ("waits", w.BARRIER), ("alive", w.ALIVE))
    )
    cases = " ".join(f"i32 {region.number}, label %at{region.number}" for region in regions)
    calls = "".join(
        f"""
at{region.number}:
  call void @meet{region.number}(ptr %wk, i64 %t, i64 %s, i64 %lanes)
  br label %join"""
        for region in regions
    )
    code = f"""
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)

; A strand of the same vector that is not in use, with a copy of a strand's frame.
define internal i64 @spare(ptr %wk, i64 %strand) noinline {{
entry:
{tables}
  %count.ptr = getelementptr i64, ptr %wk, i64 {int(w.STRANDS)}
  %vector = urem i64 %strand, {e.kernel.launch.vectors}
  br label %next
next:
  %before = phi i64 [ %vector, %entry ], [ %s, %known ]
  %s = add i64 %before, {e.kernel.launch.vectors}
  %count = load i64, ptr %count.ptr
  %fresh = icmp sge i64 %s, %count
  br i1 %fresh, label %grow, label %known
known:
  %r.ptr = getelementptr i32, ptr %resume, i64 %s
  %r = load i32, ptr %r.ptr
  %free = icmp slt i32 %r, 0
  br i1 %free, label %found, label %next
grow:
  ; Those in between have ended before they began.
  %u = phi i64 [ %count, %next ], [ %u.next, %grow ]
  %u.ptr = getelementptr i32, ptr %resume, i64 %u
  store i32 -1, ptr %u.ptr
  %u.next = add i64 %u, 1
  %u.more = icmp sle i64 %u.next, %s
  br i1 %u.more, label %grow, label %grown
grown:
  store i64 %u.next, ptr %count.ptr
  br label %found
found:
  %frames.ptr = getelementptr i64, ptr %wk, i64 {int(w.FRAMES)}
  %frames = load ptr, ptr %frames.ptr
  %from.at = mul i64 %strand, {e.kernel.frame.size}
  %from = getelementptr i8, ptr %frames, i64 %from.at
  %to.at = mul i64 %s, {e.kernel.frame.size}
  %to = getelementptr i8, ptr %frames, i64 %to.at
  call void @llvm.memcpy.p0.p0.i64(ptr %to, ptr %from, i64 {e.kernel.frame.size}, i1 false)
  ret i64 %s
}}

; The lanes of a strand's vector that live in other strands.
define internal i64 @elsewhere(ptr %wk, i64 %strand) noinline {{
entry:
{tables}
  %count.ptr = getelementptr i64, ptr %wk, i64 {int(w.STRANDS)}
  %count = load i64, ptr %count.ptr
  %vector = urem i64 %strand, {e.kernel.launch.vectors}
  br label %next
next:
  %s = phi i64 [ %vector, %entry ], [ %s.next, %look ]
  %found = phi i64 [ 0, %entry ], [ %found.next, %look ]
  %more = icmp slt i64 %s, %count
  br i1 %more, label %look, label %done
look:
  %r.ptr = getelementptr i32, ptr %resume, i64 %s
  %r = load i32, ptr %r.ptr
  %lives = icmp sge i32 %r, 0
  %other = icmp ne i64 %s, %strand
  %counts = and i1 %lives, %other
  %a.ptr = getelementptr i64, ptr %alive, i64 %s
  %a = load i64, ptr %a.ptr
  %a.counts = select i1 %counts, i64 %a, i64 0
  %found.next = or i64 %found, %a.counts
  %s.next = add i64 %s, {e.kernel.launch.vectors}
  br label %next
done:
  ret i64 %found
}}

; Strands that were let go at the same place become one again.
define internal void @rejoin(ptr %wk) noinline {{
entry:
{tables}
  %count.ptr = getelementptr i64, ptr %wk, i64 {int(w.STRANDS)}
  %count = load i64, ptr %count.ptr
  br label %next
next:
  %s = phi i64 [ {e.kernel.launch.vectors}, %entry ], [ %s.next, %on ]
  %more = icmp slt i64 %s, %count
  br i1 %more, label %look, label %done
look:
  %r.ptr = getelementptr i32, ptr %resume, i64 %s
  %r = load i32, ptr %r.ptr
  %b.ptr = getelementptr i64, ptr %waits, i64 %s
  %b = load i64, ptr %b.ptr
  %lives = icmp sge i32 %r, 0
  %free = icmp slt i64 %b, 0
  %goes = and i1 %lives, %free
  %lanes.ptr = getelementptr i64, ptr %alive, i64 %s
  %lanes = load i64, ptr %lanes.ptr
  %first = urem i64 %s, {e.kernel.launch.vectors}
  br i1 %goes, label %other, label %on
other:
  %t = phi i64 [ %first, %look ], [ %t.next, %apart ]
  %t.more = icmp slt i64 %t, %s
  br i1 %t.more, label %compare, label %on
compare:
  %t.r.ptr = getelementptr i32, ptr %resume, i64 %t
  %t.r = load i32, ptr %t.r.ptr
  %t.b.ptr = getelementptr i64, ptr %waits, i64 %t
  %t.b = load i64, ptr %t.b.ptr
  %t.same = icmp eq i32 %t.r, %r
  %t.free = icmp slt i64 %t.b, 0
  %t.fits = and i1 %t.same, %t.free
  br i1 %t.fits, label %meet, label %apart
meet:
  switch i32 %r, label %apart [ {cases} ]{calls}
apart:
  %t.next = add i64 %t, {e.kernel.launch.vectors}
  br label %other
join:
  %t.a.ptr = getelementptr i64, ptr %alive, i64 %t
  %t.a = load i64, ptr %t.a.ptr
  %together = or i64 %t.a, %lanes
  store i64 %together, ptr %t.a.ptr
  store i32 -1, ptr %r.ptr
  br label %on
on:
  %s.next = add i64 %s, 1
  br label %next
done:
  ret void
}}
"""
    return code + "".join(_meeting(e, region) for region in regions)


def _meeting(e: Emitter, region: Region) -> str:
    """`@meetN`: fetches the lanes of strand s, which wait for a region, into the frame of strand t."""
    text, one = e.text, e.one
    e.begin_function(region)
    lanes = text.op(f"bitcast i{e.width} {one.resize('i64', '%lanes', f'i{e.width}')} to {e.all.type('i1')}")
    for name in sorted(e.kernel.analysis.live[region.entry] & e.kernel.frame.offsets.keys()):
        _fetch(e, name, lanes)
    text.line("ret void")
    body = "\n".join([*e.function.entry, *text.lines])
    head = f"define internal void @meet{region.number}(ptr %wk, i64 %t, i64 %s, i64 %lanes) {{\nentry:\n"
    return f"\n{head}{body}\n}}\n"


def _fetch(e: Emitter, name: str, lanes: str) -> None:
    """A register's lanes; what all lanes share is the same in both frames, see `Analysis._written_apart`."""
    text, one = e.text, e.one
    for slot, kind, offset in frame_slots(e, name):
        ours, theirs = (frame_place(e, strand, offset) for strand in ("%t", "%s"))
        if slot.startswith("%u"):
            old, new = text.op(f"load i32, ptr {ours}"), text.op(f"load i32, ptr {theirs}")
            arriving = one.resize("i64", "%lanes", "i32")
            old = one.binary("and", "i32", old, one.binary("xor", "i32", arriving, "-1"))
            new = one.binary("and", "i32", new, arriving)
            text.line(f"store i32 {one.binary('or', 'i32', old, new)}, ptr {ours}")
        elif slot.startswith("%v"):
            old, new = (text.op(f"load {kind}, ptr {place}, align 1") for place in (ours, theirs))
            text.line(f"store {kind} {e.all.select(lanes, e.kind(name), new, old)}, ptr {ours}, align 1")
