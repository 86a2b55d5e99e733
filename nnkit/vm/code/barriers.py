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
  %s = phi i64 [ 0, %entry ], [ %s.next, %count ]
  %living = phi i1 [ false, %entry ], [ %living.next, %count ]
  %some = phi i64 [ 0, %entry ], [ %some.next, %count ]
  %all = phi i64 [ -1, %entry ], [ %all.next, %count ]
  ; The bits that some words of those that live have, and the bits that all have.
  %region = load i32, ptr %resume[%s]
  %word = load i64, ptr %waits[%s]
  %lives = icmp sge i32 %region, 0
  %living.next = or i1 %living, %lives
  %its.some = select i1 %lives, i64 %word, i64 0
  %some.next = or i64 %some, %its.some
  %its.all = select i1 %lives, i64 %word, i64 -1
  %all.next = and i64 %all, %its.all
  %s.next = add i64 %s, 1
  %s.more = icmp slt i64 %s.next, %strands
  br i1 %s.more, label %count, label %judge
judge:
  br i1 %living.next, label %somebody, label %over
over:
  ret i32 1
somebody:
  ; Some went on to a region of their own without waiting: their word is -1.
  %running = icmp slt i64 %some.next, 0
  br i1 %running, label %go.on, label %all.wait
go.on:
  ret i32 0
all.wait:
  ; The usual case: all wait for all at one barrier.
  %expected = lshr i64 %some.next, 8
  %for.all = icmp eq i64 %expected, 0
  %same = icmp eq i64 %some.next, %all.next
  %usual = and i1 %for.all, %same
  br i1 %usual, label %open.one, label %each
open.one:
  call void @publish(ptr %arrived, i64 %some.next)
  br label %free
free:
  %u = phi i64 [ 0, %open.one ], [ %u.next, %free ]
  store i64 -1, ptr %waits[%u]
  %u.next = add i64 %u, 1
  %u.more = icmp slt i64 %u.next, %strands
  br i1 %u.more, label %free, label %opened
each:
  %n = phi i64 [ 0, %all.wait ], [ %n.next, %each.done ]
  %any = phi i1 [ false, %all.wait ], [ %any.next, %each.done ]
  %ready = call i1 @ready(ptr %resume, ptr %waits, ptr %arrived, i64 %n, i64 %strands)
  br i1 %ready, label %open.each, label %each.done
open.each:
  call void @open(ptr %waits, ptr %arrived, i64 %n, i64 %strands)
  br label %each.done
each.done:
  %any.next = or i1 %any, %ready
  %n.next = add i64 %n, 1
  %n.more = icmp slt i64 %n.next, $barriers
  br i1 %n.more, label %each, label %each.end
each.end:
  br i1 %any.next, label %opened, label %stuck
opened:
$rejoin
  ret i32 0
stuck:
  ret i32 2
}

; A barrier that opens forgets who arrived early, and its votes are the result.
define internal void @publish(ptr %arrived, i64 %number) {
entry:
  store i64 0, ptr %arrived[%number]
  %early = getelementptr i64, ptr %arrived, i64 %number
  %vote = getelementptr i64, ptr %early, i64 $to_votes
  %votes = load i64, ptr %vote
  store i64 %votes, ptr %early[$to_results]
  store i64 0, ptr %vote
  ret void
}

; Opens a barrier for those who wait at it.
define internal void @open(ptr %waits, ptr %arrived, i64 %number, i64 %strands) {
entry:
  call void @publish(ptr %arrived, i64 %number)
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
