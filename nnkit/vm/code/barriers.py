"""Which barriers of a block open, in LLVM IR: decided where every strand waits or has ended.

A strand's BARRIER word says what it waits for: -1 nothing, else the barrier's number in the low 8 bits and
the expected number of threads (0: all) above. A vector whose lanes have parted has several strands: number s
belongs to vector s mod the number of vectors (`nnkit.vm.emit.strands`).
"""

from nnkit.vm.analysis.geometry import Launch
from nnkit.vm.text.layout import BARRIERS, Worker
from nnkit.vm.text.template import fill


def strand_count(launch: Launch, parts: bool) -> str:
    """A line that makes `%strands` the number of strands: more than vectors only where lanes can part."""
    return f"  %strands = {'load i64, ptr %wk[$Worker.STRANDS]' if parts else f'add i64 0, {launch.vectors}'}"


def settle(launch: Launch, parts: bool) -> str:
    """`@settle(wk, resume, waits)`: opens barriers; 0: some can go on, 1: all have ended, 2: nobody can."""
    return fill(
        _SETTLE,
        count_strands=strand_count(launch, parts),
        rejoin="  call void @rejoin(ptr %wk)" if parts else "",
        barriers=BARRIERS,
        threads=launch.threads,
        vectors=launch.vectors,
        width=launch.width,
        to_votes=Worker.VOTES - Worker.ARRIVED,
        to_results=Worker.RESULTS - Worker.ARRIVED,
    )


_SETTLE = """
declare i32 @llvm.umax.i32(i32, i32)

define internal i32 @settle(ptr %wk, ptr %resume, ptr %waits) noinline {
entry:
$count_strands
  %arrived = getelementptr i64, ptr %wk, i64 $Worker.ARRIVED
  br label %count
count:
  %s = phi i64 [ 0, %entry ], [ %s.next, %look ]
  %living = phi i64 [ 0, %entry ], [ %living.next, %look ]
  %waiting = phi i64 [ 0, %entry ], [ %waiting.next, %look ]
  %first = phi i64 [ -1, %entry ], [ %first.next, %look ]
  %equal = phi i1 [ true, %entry ], [ %equal.next, %look ]
  %s.more = icmp slt i64 %s, %strands
  br i1 %s.more, label %look, label %judge
look:
  ; What the first that lives waits for, and whether all others that live wait for the same.
  %region = load i32, ptr %resume[%s]
  %word = load i64, ptr %waits[%s]
  %lives = icmp sge i32 %region, 0
  %lives.count = zext i1 %lives to i64
  %living.next = add i64 %living, %lives.count
  %stands = icmp sge i64 %word, 0
  %waits.here = and i1 %lives, %stands
  %waits.count = zext i1 %waits.here to i64
  %waiting.next = add i64 %waiting, %waits.count
  %none.yet = icmp eq i64 %first, -1
  %is.first = and i1 %lives, %none.yet
  %first.next = select i1 %is.first, i64 %word, i64 %first
  %same = icmp eq i64 %first.next, %word
  %ended = xor i1 %lives, true
  %fits = or i1 %ended, %same
  %equal.next = and i1 %equal, %fits
  %s.next = add i64 %s, 1
  br label %count
judge:
  %nobody = icmp eq i64 %living, 0
  br i1 %nobody, label %over, label %somebody
over:
  ret i32 1
somebody:
  ; Some went on to a region of their own without waiting.
  %running = icmp slt i64 %waiting, %living
  br i1 %running, label %go.on, label %all.wait
go.on:
  ret i32 0
all.wait:
  ; The usual case: all wait for all at one barrier.
  %expected = lshr i64 %first, 8
  %for.all = icmp eq i64 %expected, 0
  %usual = and i1 %for.all, %equal
  br i1 %usual, label %open.one, label %each
open.one:
  %number = and i64 %first, 255
  call void @open(ptr %waits, ptr %arrived, i64 %number, i64 %strands)
  br label %opened
each:
  %n = phi i64 [ 0, %all.wait ], [ %n.next, %each.done ]
  %some = phi i1 [ false, %all.wait ], [ %some.next, %each.done ]
  %ready = call i1 @ready(ptr %resume, ptr %waits, ptr %arrived, i64 %n, i64 %strands)
  br i1 %ready, label %open.each, label %each.done
open.each:
  call void @open(ptr %waits, ptr %arrived, i64 %n, i64 %strands)
  br label %each.done
each.done:
  %some.next = or i1 %some, %ready
  %n.next = add i64 %n, 1
  %n.more = icmp slt i64 %n.next, $barriers
  br i1 %n.more, label %each, label %each.end
each.end:
  br i1 %some.next, label %opened, label %stuck
opened:
$rejoin
  ret i32 0
stuck:
  ret i32 2
}

; Lets go who waits at a barrier, forgets who arrived early and publishes what was voted there.
define internal void @open(ptr %waits, ptr %arrived, i64 %number, i64 %strands) {
entry:
  store i64 0, ptr %arrived[%number]
  %early = getelementptr i64, ptr %arrived, i64 %number
  %vote = getelementptr i64, ptr %early, i64 $to_votes
  %votes = load i64, ptr %vote
  store i64 %votes, ptr %early[$to_results]
  store i64 0, ptr %vote
  br label %next
next:
  %s = phi i64 [ 0, %entry ], [ %s.next, %next ]
  %word = load i64, ptr %waits[%s]
  %its.number = and i64 %word, 255
  %here = icmp eq i64 %its.number, %number
  %new = select i1 %here, i64 -1, i64 %word
  store i64 %new, ptr %waits[%s]
  %s.next = add i64 %s, 1
  %more = icmp slt i64 %s.next, %strands
  br i1 %more, label %next, label %done
done:
  ret void
}

; Whether all have arrived whom a barrier expects, and someone waits there. As on the hardware, whole warps
; count: those that arrived without waiting, and those that wait.
define internal i1 @ready(ptr %resume, ptr %waits, ptr %arrived, i64 %number, i64 %strands) {
entry:
  %early = load i64, ptr %arrived[%number]
  br label %next
next:
  %v = phi i64 [ 0, %entry ], [ %v.next, %next ]
  %sum = phi i64 [ %early, %entry ], [ %sum.next, %next ]
  %want = phi i64 [ -1, %entry ], [ %want.next, %next ]
  %all = phi i1 [ true, %entry ], [ %all.next, %next ]
  %stands = call { i32, i64 } @stands(ptr %resume, ptr %waits, i64 %v, i64 %number, i64 %strands)
  %state = extractvalue { i32, i64 } %stands, 0
  %word = extractvalue { i32, i64 } %stands, 1
  %someone.here = icmp sge i64 %word, 0
  %its.want = lshr i64 %word, 8
  %want.next = select i1 %someone.here, i64 %its.want, i64 %want
  %not.elsewhere = icmp ne i32 %state, 2
  %all.next = and i1 %all, %not.elsewhere
  %first.thread = mul i64 %v, $width
  %left = sub i64 $threads, %first.thread
  %short = icmp slt i64 %left, $width
  %size = select i1 %short, i64 %left, i64 $width
  %wholly.here = icmp eq i32 %state, 1
  %counts = select i1 %wholly.here, i64 %size, i64 0
  %sum.next = add i64 %sum, %counts
  %v.next = add i64 %v, 1
  %more = icmp slt i64 %v.next, $vectors
  br i1 %more, label %next, label %judge
judge:
  %someone = icmp sge i64 %want.next, 0
  %limited = icmp sgt i64 %want.next, 0
  %reached = icmp sge i64 %sum.next, %want.next
  %enough = and i1 %limited, %reached
  %unlimited = icmp eq i64 %want.next, 0
  %total = icmp sge i64 %sum.next, $threads
  %all.or.total = or i1 %all.next, %total
  %everyone = and i1 %unlimited, %all.or.total
  %complete = or i1 %enough, %everyone
  %opens = and i1 %complete, %someone
  ret i1 %opens
}

; How a vector stands to a barrier: 0 it has ended, 1 all of it waits there, 2 it is elsewhere; and the
; BARRIER word of who waits there, or -1.
define internal { i32, i64 } @stands(ptr %resume, ptr %waits, i64 %v, i64 %number, i64 %strands) {
entry:
  br label %next
next:
  %s = phi i64 [ %v, %entry ], [ %s.next, %next ]
  %state = phi i32 [ 0, %entry ], [ %state.next, %next ]
  %found = phi i64 [ -1, %entry ], [ %found.next, %next ]
  %region = load i32, ptr %resume[%s]
  %word = load i64, ptr %waits[%s]
  %lives = icmp sge i32 %region, 0
  %waiting = icmp sge i64 %word, 0
  %its.number = and i64 %word, 255
  %right = icmp eq i64 %its.number, %number
  %right.one = and i1 %right, %waiting
  %here = and i1 %right.one, %lives
  %if.lives = select i1 %here, i32 1, i32 2
  %its.state = select i1 %lives, i32 %if.lives, i32 0
  %state.next = call i32 @llvm.umax.i32(i32 %state, i32 %its.state)
  %found.next = select i1 %here, i64 %word, i64 %found
  %s.next = add i64 %s, $vectors
  %more = icmp slt i64 %s.next, %strands
  br i1 %more, label %next, label %done
done:
  %half = insertvalue { i32, i64 } poison, i32 %state.next, 0
  %both = insertvalue { i32, i64 } %half, i64 %found.next, 1
  ret { i32, i64 } %both
}
"""
