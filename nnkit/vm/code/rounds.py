"""Runs a block's strands in rounds, in LLVM IR: each until it waits or ends, then barriers open.

Neighbours that go on in the same region run together, one after another inside the region's function. A
strand is a vector, or some of its lanes (`nnkit.vm.emit.strands`). RESUME holds the region that it goes on
with, or ENDED; BARRIER what it waits for (`nnkit.vm.code.barriers`).
"""

from nnkit.vm.analysis.geometry import Launch
from nnkit.vm.code.barriers import strand_count
from nnkit.vm.text.layout import BARRIERS
from nnkit.vm.text.template import fill


def block_in_rounds(regions: int, launch: Launch, fill_shared: str, parts: bool) -> str:
    """`@block(ctx, wk)` of a kernel with several regions; returns 1 where a fault ended it.

    `fill_shared` are lines that fill the block's shared memory; `parts` says whether lanes of a vector may
    wait at different barriers.
    """
    return fill(
        _BLOCK,
        count_strands=strand_count(launch, parts),
        fill_shared=fill_shared,
        reset_count=f"  store i64 {launch.vectors}, ptr %wk[$Worker.STRANDS]" if parts else "",
        barrier_bytes=3 * 8 * BARRIERS,
        resume_bytes=4 * launch.vectors,
        waits_bytes=8 * launch.vectors,
        cases=" ".join(f"i32 {number}, label %region{number}" for number in range(regions)),
        calls="".join(fill(_CALL, n=number) for number in range(regions)),
        errors=", ".join(f"[ %error{number}, %region{number} ]" for number in range(regions)),
    )


_CALL = """
region$n:
  %error$n = call i32 @region$n(ptr %ctx, ptr %wk, i64 %s, i64 %e)
  br label %ran
"""

_BLOCK = """
define internal i32 @block(ptr %ctx, ptr %wk) {
entry:
  %resume = load ptr, ptr %wk[$Worker.RESUME]
  %waits = load ptr, ptr %wk[$Worker.BARRIER]
$fill_shared
  ; Nobody has voted or arrived, no vote has a result; every vector begins in region 0 and waits for nothing.
  %votes = getelementptr i64, ptr %wk, i64 $Worker.VOTES
  call void @llvm.memset.p0.i64(ptr %votes, i8 0, i64 $barrier_bytes, i1 false)
  call void @llvm.memset.p0.i64(ptr %resume, i8 0, i64 $resume_bytes, i1 false)
  call void @llvm.memset.p0.i64(ptr %waits, i8 -1, i64 $waits_bytes, i1 false)
$reset_count
  br label %round
round:
$count_strands
  br label %next
next:
  %s = phi i64 [ 0, %round ], [ %s.skipped, %skip ], [ %e, %ran ]
  %s.more = icmp slt i64 %s, %strands
  br i1 %s.more, label %look, label %settle
look:
  %region = load i32, ptr %resume[%s]
  %word = load i64, ptr %waits[%s]
  %ended = icmp slt i32 %region, 0
  %waiting = icmp sge i64 %word, 0
  %idle = or i1 %ended, %waiting
  br i1 %idle, label %skip, label %gather
skip:
  %s.skipped = add i64 %s, 1
  br label %next
gather:
  ; The strands s to e - 1 go on in the same region.
  %e.first = add i64 %s, 1
  br label %same
same:
  %e = phi i64 [ %e.first, %gather ], [ %e.next, %join ]
  %e.more = icmp slt i64 %e, %strands
  br i1 %e.more, label %compare, label %run
compare:
  %e.region = load i32, ptr %resume[%e]
  %e.word = load i64, ptr %waits[%e]
  %e.same = icmp eq i32 %e.region, %region
  %e.runs = icmp slt i64 %e.word, 0
  %e.too = and i1 %e.same, %e.runs
  br i1 %e.too, label %join, label %run
join:
  %e.next = add i64 %e, 1
  br label %same
run:
  switch i32 %region, label %impossible [ $cases ]
$calls
ran:
  %error = phi i32 $errors
  %failed = icmp ne i32 %error, 0
  br i1 %failed, label %fail, label %next
settle:
  %state = call i32 @settle(ptr %wk, ptr %resume, ptr %waits)
  switch i32 %state, label %round [ i32 1, label %done i32 2, label %deadlock ]
deadlock:
  store i64 $Fault.DEADLOCK, ptr %wk[$Worker.FAULT]
  br label %fail
fail:
  ret i32 1
done:
  ret i32 0
impossible:
  unreachable
}
"""
