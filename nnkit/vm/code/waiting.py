"""Runs a block's strands from barrier to barrier, in LLVM IR.

All that are at the same place run together, one after another inside the region's function; what lies between
is decided here: who waits at which barrier, and when it opens. A strand is a vector, or some of its lanes
(`nnkit.vm.emit.strands`).
"""

from nnkit.vm.text.layout import Fault, Worker


def block_with_barriers(regions: int, vectors: int, threads: int, fill: str, parts: bool) -> str:
    """`@block(ctx, wk)`, and what it needs; returns 1 where a fault ended it.

    Per strand RESUME holds the region to go on with (or ENDED) and BARRIER what it waits for: -1 nothing,
    else the barrier's number in the low 8 bits and the expected number of threads (0: all) above.
    """
    w, f = Worker, Fault
    count = f"""
  %strands.ptr = getelementptr i64, ptr %wk, i64 {int(w.STRANDS)}
  %strands = load i64, ptr %strands.ptr"""
    count = count if parts else f"\n  %strands = add i64 0, {vectors}"
    begin = (
        f"\n  %n.ptr = getelementptr i64, ptr %wk, i64 {int(w.STRANDS)}\n  store i64 {vectors}, ptr %n.ptr"
    )
    rejoin = "\n  call void @rejoin(ptr %wk)" if parts else ""
    cases = " ".join(f"i32 {number}, label %go{number}" for number in range(regions))
    calls = "".join(
        f"""
go{number}:
  %err{number} = call i32 @region{number}(ptr %ctx, ptr %wk, i64 %v, i64 %e)
  br label %went"""
        for number in range(regions)
    )
    merges = ", ".join(f"[ %err{number}, %go{number} ]" for number in range(regions))
    return f"""
define internal i32 @block(ptr %ctx, ptr %wk) {{
entry:
  %resume.ptr = getelementptr i64, ptr %wk, i64 {int(w.RESUME)}
  %resume = load ptr, ptr %resume.ptr
  %waits.ptr = getelementptr i64, ptr %wk, i64 {int(w.BARRIER)}
  %waits = load ptr, ptr %waits.ptr
  %alive.ptr = getelementptr i64, ptr %wk, i64 {int(w.ALIVE)}
  %alive = load ptr, ptr %alive.ptr
  %arrived = getelementptr i64, ptr %wk, i64 {int(w.ARRIVED)}{fill}
  %votes = getelementptr i64, ptr %wk, i64 {int(w.VOTES)}
  call void @llvm.memset.p0.i64(ptr %votes, i8 0, i64 384, i1 false)
  call void @llvm.memset.p0.i64(ptr %resume, i8 0, i64 {4 * vectors}, i1 false)
  call void @llvm.memset.p0.i64(ptr %waits, i8 -1, i64 {8 * vectors}, i1 false){begin if parts else ""}
  br label %pass
pass:{count}
  br label %next
next:
  %v = phi i64 [ 0, %pass ], [ %v.skip, %skip ], [ %e, %went.on ]
  %more = icmp slt i64 %v, %strands
  br i1 %more, label %look, label %settle
look:
  %r.ptr = getelementptr i32, ptr %resume, i64 %v
  %r = load i32, ptr %r.ptr
  %b.ptr = getelementptr i64, ptr %waits, i64 %v
  %b = load i64, ptr %b.ptr
  %ended = icmp slt i32 %r, 0
  %waiting = icmp sge i64 %b, 0
  %idle = or i1 %ended, %waiting
  br i1 %idle, label %skip, label %gather
skip:
  %v.skip = add i64 %v, 1
  br label %next
gather:
  %e.start = add i64 %v, 1
  br label %same
same:
  %e = phi i64 [ %e.start, %gather ], [ %e.next, %join ]
  %e.more = icmp slt i64 %e, %strands
  br i1 %e.more, label %compare, label %dispatch
compare:
  %e.ptr = getelementptr i32, ptr %resume, i64 %e
  %e.r = load i32, ptr %e.ptr
  %e.b.ptr = getelementptr i64, ptr %waits, i64 %e
  %e.b = load i64, ptr %e.b.ptr
  %e.same = icmp eq i32 %e.r, %r
  %e.runs = icmp slt i64 %e.b, 0
  %e.too = and i1 %e.same, %e.runs
  br i1 %e.too, label %join, label %dispatch
join:
  %e.next = add i64 %e, 1
  br label %same
dispatch:
  switch i32 %r, label %impossible [ {cases} ]{calls}
went:
  %err = phi i32 {merges}
  %failed = icmp ne i32 %err, 0
  br i1 %failed, label %fail, label %went.on
went.on:
  br label %next
impossible:
  unreachable
fail:
  ret i32 1

; Every strand waits or has ended: open each barrier at which all expected threads have arrived.
settle:
  %usual = call i32 @settle(ptr %wk, ptr %resume, ptr %waits, ptr %alive, ptr %arrived)
  switch i32 %usual, label %pass [ i32 1, label %done i32 2, label %deadlock ]
deadlock:
  %fault.ptr = getelementptr i64, ptr %wk, i64 {int(w.FAULT)}
  store i64 {int(f.DEADLOCK)}, ptr %fault.ptr
  ret i32 1
done:
  ret i32 0
}}

declare i32 @llvm.umax.i32(i32, i32)

; A barrier that opens forgets who arrived and publishes what was voted there.
define internal void @reset(ptr %arrived, i64 %number) {{
  %early = getelementptr i64, ptr %arrived, i64 %number
  store i64 0, ptr %early
  %vote = getelementptr i64, ptr %early, i64 {int(w.VOTES) - int(w.ARRIVED)}
  %result = getelementptr i64, ptr %early, i64 {int(w.RESULTS) - int(w.ARRIVED)}
  %votes = load i64, ptr %vote
  store i64 %votes, ptr %result
  store i64 0, ptr %vote
  ret void
}}

; How a vector stands to a barrier: 0 it has ended, 1 all of it waits there, 2 it is elsewhere; and who waits.
define internal {{ i32, i64 }} @stands(ptr %resume, ptr %waits, i64 %v, i64 %n, i64 %strands) {{
entry:
  br label %look
look:
  %t = phi i64 [ %v, %entry ], [ %t.next, %look ]
  %state = phi i32 [ 0, %entry ], [ %state.next, %look ]
  %word = phi i64 [ -1, %entry ], [ %word.next, %look ]
  %r.ptr = getelementptr i32, ptr %resume, i64 %t
  %r = load i32, ptr %r.ptr
  %b.ptr = getelementptr i64, ptr %waits, i64 %t
  %b = load i64, ptr %b.ptr
  %lives = icmp sge i32 %r, 0
  %number = and i64 %b, 255
  %right = icmp eq i64 %number, %n
  %waiting = icmp sge i64 %b, 0
  %here.1 = and i1 %right, %waiting
  %here = and i1 %here.1, %lives
  %here.state = select i1 %here, i32 1, i32 2
  %its.state = select i1 %lives, i32 %here.state, i32 0
  %state.next = call i32 @llvm.umax.i32(i32 %state, i32 %its.state)
  %word.next = select i1 %here, i64 %b, i64 %word
  %t.next = add i64 %t, {vectors}
  %more = icmp slt i64 %t.next, %strands
  br i1 %more, label %look, label %done
done:
  %one = insertvalue {{ i32, i64 }} poison, i32 %state.next, 0
  %both = insertvalue {{ i32, i64 }} %one, i64 %word.next, 1
  ret {{ i32, i64 }} %both
}}

; Returns 0 where some strand can go on, 1 where all have ended, 2 where nobody ever will.
define internal i32 @settle(ptr %wk, ptr %resume, ptr %waits, ptr %alive, ptr %arrived) noinline {{
entry:{count}
  br label %count
count:
  %v = phi i64 [ 0, %entry ], [ %v.next, %counted ]
  %waiting = phi i64 [ 0, %entry ], [ %waiting.next, %counted ]
  %living = phi i64 [ 0, %entry ], [ %living.next, %counted ]
  %first = phi i64 [ -1, %entry ], [ %first.next, %counted ]
  %equal = phi i1 [ true, %entry ], [ %equal.next, %counted ]
  %go = icmp slt i64 %v, %strands
  br i1 %go, label %one, label %judge
one:
  %r.ptr = getelementptr i32, ptr %resume, i64 %v
  %r = load i32, ptr %r.ptr
  %b.ptr = getelementptr i64, ptr %waits, i64 %v
  %b = load i64, ptr %b.ptr
  %ended = icmp slt i32 %r, 0
  br i1 %ended, label %counted, label %lives
lives:
  %living.one = add i64 %living, 1
  %waits.too = icmp sge i64 %b, 0
  %waiting.inc = zext i1 %waits.too to i64
  %waiting.one = add i64 %waiting, %waiting.inc
  %is.first = icmp eq i64 %first, -1
  %first.one = select i1 %is.first, i64 %b, i64 %first
  %is.equal = icmp eq i64 %first.one, %b
  %equal.one = and i1 %equal, %is.equal
  br label %counted
counted:
  %living.next = phi i64 [ %living, %one ], [ %living.one, %lives ]
  %waiting.next = phi i64 [ %waiting, %one ], [ %waiting.one, %lives ]
  %first.next = phi i64 [ %first, %one ], [ %first.one, %lives ]
  %equal.next = phi i1 [ %equal, %one ], [ %equal.one, %lives ]
  %v.next = add i64 %v, 1
  br label %count
judge:
  %nobody = icmp eq i64 %living, 0
  br i1 %nobody, label %over, label %somebody
over:
  ret i32 1
somebody:
  ; Some went on to a region of their own without waiting.
  %runs = icmp slt i64 %waiting, %living
  br i1 %runs, label %open, label %stand
stand:
  ; The usual case: all wait for all at one barrier.
  %expected = lshr i64 %first, 8
  %for.all = icmp eq i64 %expected, 0
  %all.wait = icmp eq i64 %waiting, %living
  %plain.1 = and i1 %for.all, %all.wait
  %plain = and i1 %plain.1, %equal
  br i1 %plain, label %release, label %named
release:
  %number = and i64 %first, 255
  call void @reset(ptr %arrived, i64 %number)
  br label %free
free:
  %u = phi i64 [ 0, %release ], [ %u.next, %freed ]
  %u.go = icmp slt i64 %u, %strands
  br i1 %u.go, label %freed, label %rejoin
freed:
  %u.ptr = getelementptr i64, ptr %waits, i64 %u
  store i64 -1, ptr %u.ptr
  %u.next = add i64 %u, 1
  br label %free
rejoin:{rejoin}
  ret i32 0
open:
  ret i32 0
named:
  br label %barrier
barrier:
  %n = phi i64 [ 0, %named ], [ %n.next, %barrier.done ]
  %opened = phi i1 [ false, %named ], [ %opened.next, %barrier.done ]
  %n.go = icmp slt i64 %n, 16
  br i1 %n.go, label %tally, label %verdict
tally:
  ; Threads that arrived without waiting, then those that wait here; whole warps count, as on the hardware.
  %early.ptr = getelementptr i64, ptr %arrived, i64 %n
  %early = load i64, ptr %early.ptr
  br label %each
each:
  %t = phi i64 [ 0, %tally ], [ %t.next, %each.done ]
  %sum = phi i64 [ %early, %tally ], [ %sum.next, %each.done ]
  %want = phi i64 [ -1, %tally ], [ %want.next, %each.done ]
  %all = phi i1 [ true, %tally ], [ %all.next, %each.done ]
  %t.go = icmp slt i64 %t, {vectors}
  br i1 %t.go, label %each.one, label %each.end
each.one:
  %t.stands = call {{ i32, i64 }} @stands(ptr %resume, ptr %waits, i64 %t, i64 %n, i64 %strands)
  %t.state = extractvalue {{ i32, i64 }} %t.stands, 0
  %t.b = extractvalue {{ i32, i64 }} %t.stands, 1
  %t.here = icmp eq i32 %t.state, 1
  %t.ok = icmp ne i32 %t.state, 2
  %all.one = and i1 %all, %t.ok
  %t.some = icmp sge i64 %t.b, 0
  %t.want = lshr i64 %t.b, 8
  %want.one = select i1 %t.some, i64 %t.want, i64 %want
  %first.thread = mul i64 %t, WIDTH
  %left = sub i64 {threads}, %first.thread
  %short = icmp slt i64 %left, WIDTH
  %weight = select i1 %short, i64 %left, i64 WIDTH
  %sum.inc = select i1 %t.here, i64 %weight, i64 0
  %sum.one = add i64 %sum, %sum.inc
  br label %each.done
each.done:
  %sum.next = phi i64 [ %sum.one, %each.one ]
  %want.next = phi i64 [ %want.one, %each.one ]
  %all.next = phi i1 [ %all.one, %each.one ]
  %t.next = add i64 %t, 1
  br label %each
each.end:
  %someone = icmp sge i64 %want, 0
  %counts = icmp sgt i64 %want, 0
  %enough.1 = icmp sge i64 %sum, %want
  %enough.2 = and i1 %counts, %enough.1
  %total = icmp sge i64 %sum, {threads}
  %everyone = or i1 %all, %total
  %unlimited = icmp eq i64 %want, 0
  %everyone.2 = and i1 %unlimited, %everyone
  %ready = or i1 %enough.2, %everyone.2
  %opens = and i1 %ready, %someone
  br i1 %opens, label %let, label %barrier.done
let:
  call void @reset(ptr %arrived, i64 %n)
  br label %let.loop
let.loop:
  %y = phi i64 [ 0, %let ], [ %y.next, %let.next ]
  %y.go = icmp slt i64 %y, %strands
  br i1 %y.go, label %let.one, label %barrier.done
let.one:
  %y.ptr = getelementptr i64, ptr %waits, i64 %y
  %y.b = load i64, ptr %y.ptr
  %y.number = and i64 %y.b, 255
  %y.here = icmp eq i64 %y.number, %n
  %y.new = select i1 %y.here, i64 -1, i64 %y.b
  store i64 %y.new, ptr %y.ptr
  br label %let.next
let.next:
  %y.next = add i64 %y, 1
  br label %let.loop
barrier.done:
  %opened.here = phi i1 [ false, %each.end ], [ true, %let.loop ]
  %opened.next = or i1 %opened, %opened.here
  %n.next = add i64 %n, 1
  br label %barrier
verdict:{rejoin}
  %state = select i1 %opened, i32 0, i32 2
  ret i32 %state
}}
"""
