"""What strands that part and meet again call, in LLVM IR; see `nnkit.vm.emit.strands`."""

from nnkit.vm.analysis.regions import Region
from nnkit.vm.emit.emitter import Emitter
from nnkit.vm.emit.frames import frame_place, frame_slots
from nnkit.vm.text.layout import ENDED
from nnkit.vm.text.template import fill


def functions(e: Emitter) -> str:
    """`@spare`, `@elsewhere`, `@rejoin` and its `@meetN`; nothing for a kernel whose lanes never part."""
    if not e.kernel.analysis.parts:
        return ""
    # Nobody waits for the first region.
    regions, vectors = e.kernel.analysis.regions[1:], e.kernel.launch.vectors
    templates = parting(vectors, e.kernel.frame.size) + rejoining(vectors, [r.number for r in regions])
    return templates + "".join(_meeting(e, region) for region in regions)


def parting(vectors: int, frame_bytes: int) -> str:
    """`@spare(wk, strand)`: a strand for lanes that part; `@elsewhere(wk, strand)`: those that have."""
    return fill(_SPARE, vectors=vectors, frame_bytes=frame_bytes, ended=ENDED) + fill(
        _ELSEWHERE, vectors=vectors
    )


def rejoining(vectors: int, regions: list[int]) -> str:
    """`@rejoin(wk)`: strands of a vector that go on in the same one of the regions become one again."""
    return fill(
        _REJOIN,
        vectors=vectors,
        ended=ENDED,
        cases=" ".join(f"i32 {number}, label %meet{number}" for number in regions),
        calls="".join(fill(_MEET, n=number) for number in regions),
    )


_SPARE = """
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)

; A strand of the same vector that is not in use, with a copy of a strand's frame.
define internal i64 @spare(ptr %wk, i64 %strand) noinline {
entry:
  %resume = load ptr, ptr %wk[$Worker.RESUME]
  %count = load i64, ptr %wk[$Worker.STRANDS]
  %vector = urem i64 %strand, $vectors
  br label %next
next:
  %before = phi i64 [ %vector, %entry ], [ %s, %known ]
  %s = add i64 %before, $vectors
  %fresh = icmp sge i64 %s, %count
  br i1 %fresh, label %grow, label %known
known:
  %region = load i32, ptr %resume[%s]
  %free = icmp slt i32 %region, 0
  br i1 %free, label %found, label %next
grow:
  ; Those in between have ended before they began.
  %u = phi i64 [ %count, %next ], [ %u.next, %grow ]
  store i32 $ended, ptr %resume[%u]
  %u.next = add i64 %u, 1
  %u.more = icmp sle i64 %u.next, %s
  br i1 %u.more, label %grow, label %grown
grown:
  store i64 %u.next, ptr %wk[$Worker.STRANDS]
  br label %found
found:
  %frames = load ptr, ptr %wk[$Worker.FRAMES]
  %from.byte = mul i64 %strand, $frame_bytes
  %from = getelementptr i8, ptr %frames, i64 %from.byte
  %to.byte = mul i64 %s, $frame_bytes
  %to = getelementptr i8, ptr %frames, i64 %to.byte
  call void @llvm.memcpy.p0.p0.i64(ptr %to, ptr %from, i64 $frame_bytes, i1 false)
  ret i64 %s
}
"""

_ELSEWHERE = """
; The lanes of a strand's vector that live in other strands.
define internal i64 @elsewhere(ptr %wk, i64 %strand) noinline {
entry:
  %resume = load ptr, ptr %wk[$Worker.RESUME]
  %alive = load ptr, ptr %wk[$Worker.ALIVE]
  %count = load i64, ptr %wk[$Worker.STRANDS]
  %vector = urem i64 %strand, $vectors
  br label %next
next:
  %s = phi i64 [ %vector, %entry ], [ %s.next, %look ]
  %found = phi i64 [ 0, %entry ], [ %found.next, %look ]
  %more = icmp slt i64 %s, %count
  br i1 %more, label %look, label %done
look:
  %region = load i32, ptr %resume[%s]
  %lives = icmp sge i32 %region, 0
  %other = icmp ne i64 %s, %strand
  %counts = and i1 %lives, %other
  %lanes = load i64, ptr %alive[%s]
  %its.lanes = select i1 %counts, i64 %lanes, i64 0
  %found.next = or i64 %found, %its.lanes
  %s.next = add i64 %s, $vectors
  br label %next
done:
  ret i64 %found
}
"""

_MEET = """
meet$n:
  call void @meet$n(ptr %wk, i64 %t, i64 %s, i64 %lanes)
  br label %met
"""

_REJOIN = """
; Strands that were let go at the same place become one again: s joins the first such t of its vector.
define internal void @rejoin(ptr %wk) noinline {
entry:
  %resume = load ptr, ptr %wk[$Worker.RESUME]
  %waits = load ptr, ptr %wk[$Worker.BARRIER]
  %alive = load ptr, ptr %wk[$Worker.ALIVE]
  %count = load i64, ptr %wk[$Worker.STRANDS]
  br label %next
next:
  ; Below are the vectors' first strands: they have nobody to join.
  %s = phi i64 [ $vectors, %entry ], [ %s.next, %done ]
  %s.more = icmp slt i64 %s, %count
  br i1 %s.more, label %look, label %end
look:
  %region = load i32, ptr %resume[%s]
  %word = load i64, ptr %waits[%s]
  %lanes = load i64, ptr %alive[%s]
  %lives = icmp sge i32 %region, 0
  %free = icmp slt i64 %word, 0
  %goes = and i1 %lives, %free
  %first = urem i64 %s, $vectors
  br i1 %goes, label %search, label %done
search:
  %t = phi i64 [ %first, %look ], [ %t.next, %apart ]
  %t.more = icmp slt i64 %t, %s
  br i1 %t.more, label %compare, label %done
compare:
  %t.region = load i32, ptr %resume[%t]
  %t.word = load i64, ptr %waits[%t]
  %t.same = icmp eq i32 %t.region, %region
  %t.free = icmp slt i64 %t.word, 0
  %t.fits = and i1 %t.same, %t.free
  br i1 %t.fits, label %meet, label %apart
apart:
  %t.next = add i64 %t, $vectors
  br label %search
meet:
  switch i32 %region, label %apart [ $cases ]
$calls
met:
  %t.lanes = load i64, ptr %alive[%t]
  %together = or i64 %t.lanes, %lanes
  store i64 %together, ptr %alive[%t]
  store i32 $ended, ptr %resume[%s]
  br label %done
done:
  %s.next = add i64 %s, 1
  br label %next
end:
  ret void
}
"""


def _meeting(e: Emitter, region: Region) -> str:
    """`@meetN`: fetches the lanes of strand s, which wait for a region, into the frame of strand t."""
    e.begin_function(region)
    text, one = e.text, e.one
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
