"""Runs a block's vectors from barrier to barrier, and takes blocks until none is left, in LLVM IR.

All vectors that are at the same place run together, one after another inside the region's function; what lies
between is decided here: who waits at which barrier, and when it opens.
"""

from nnkit.vm.layout import Context, Fault, Worker

# Another library may have told this thread to flush denormals; kernels get IEEE arithmetic (MXCSR 0x1F80).
_IEEE_ON = """  %mode.old = alloca i32
  %mode.ieee = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %mode.old)
  store i32 8064, ptr %mode.ieee
  call void @llvm.x86.sse.ldmxcsr(ptr %mode.ieee)
"""
_IEEE_OFF = "  call void @llvm.x86.sse.ldmxcsr(ptr %mode.old)\n"
_IEEE_DECLARED = """
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)
"""


def scheduler(regions: int, vectors: int, threads: int, width: int, poison: bool, is_x86: bool) -> str:
    """`@run(ctx, wk)`: takes blocks until none is left or something went wrong; returns 1 for the latter.

    Per vector RESUME holds the region to go on with (or ENDED) and BARRIER what it waits for: -1 nothing,
    else the barrier's number in the low 8 bits and the expected number of threads (0: all) above.
    """
    c, w = Context, Worker
    fill = ""
    if poison:
        fill = f"""
  %fill.bytes.ptr = getelementptr i64, ptr %ctx, i64 {int(c.SHARED_BYTES)}
  %fill.bytes = load i64, ptr %fill.bytes.ptr
  %fill.ptr = getelementptr i64, ptr %wk, i64 {int(w.SHARED)}
  %fill = load ptr, ptr %fill.ptr
  call void @llvm.memset.p0.i64(ptr %fill, i8 -1, i64 %fill.bytes, i1 false)"""
    if regions == 1:
        # Nobody ever waits: one call does the block.
        block = _AT_ONCE.format(vectors=vectors, fill=fill)
    else:
        block = _block(regions, vectors, threads, fill)
    run = _run(vectors, is_x86)
    head = "declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)\n" + (_IEEE_DECLARED if is_x86 else "")
    return (head + block + run).replace("WIDTH", str(width))


_AT_ONCE = """
define internal i32 @block(ptr %ctx, ptr %wk) alwaysinline {{
entry:{fill}
  %failed = call i32 @region0(ptr %ctx, ptr %wk, i64 0, i64 {vectors})
  ret i32 %failed
}}
"""


def _block(regions: int, vectors: int, threads: int, fill: str) -> str:
    """`@block` for kernels with barriers, and what it needs."""
    w, f = Worker, Fault
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
  call void @llvm.memset.p0.i64(ptr %waits, i8 -1, i64 {8 * vectors}, i1 false)
  br label %pass
pass:
  br label %next
next:
  %v = phi i64 [ 0, %pass ], [ %v.skip, %skip ], [ %e, %went.on ]
  %more = icmp slt i64 %v, {vectors}
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
  %e.more = icmp slt i64 %e, {vectors}
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

; Every vector waits or has ended: open each barrier at which all expected threads have arrived.
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

; Returns 0 where some vector can go on, 1 where all have ended, 2 where nobody ever will.
define internal i32 @settle(ptr %wk, ptr %resume, ptr %waits, ptr %alive, ptr %arrived) noinline {{
entry:
  br label %count
count:
  %v = phi i64 [ 0, %entry ], [ %v.next, %counted ]
  %waiting = phi i64 [ 0, %entry ], [ %waiting.next, %counted ]
  %living = phi i64 [ 0, %entry ], [ %living.next, %counted ]
  %first = phi i64 [ -1, %entry ], [ %first.next, %counted ]
  %equal = phi i1 [ true, %entry ], [ %equal.next, %counted ]
  %go = icmp slt i64 %v, {vectors}
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
  %u.go = icmp slt i64 %u, {vectors}
  br i1 %u.go, label %freed, label %open
freed:
  %u.ptr = getelementptr i64, ptr %waits, i64 %u
  store i64 -1, ptr %u.ptr
  %u.next = add i64 %u, 1
  br label %free
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
  %t.r.ptr = getelementptr i32, ptr %resume, i64 %t
  %t.r = load i32, ptr %t.r.ptr
  %t.b.ptr = getelementptr i64, ptr %waits, i64 %t
  %t.b = load i64, ptr %t.b.ptr
  %t.ended = icmp slt i32 %t.r, 0
  %t.number = and i64 %t.b, 255
  %t.right = icmp eq i64 %t.number, %n
  %t.waits = icmp sge i64 %t.b, 0
  %t.here.1 = and i1 %t.right, %t.waits
  %t.lives = xor i1 %t.ended, true
  %t.here = and i1 %t.here.1, %t.lives
  %t.ok = or i1 %t.here, %t.ended
  %all.one = and i1 %all, %t.ok
  %t.want = lshr i64 %t.b, 8
  %want.one = select i1 %t.here, i64 %t.want, i64 %want
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
  %y.go = icmp slt i64 %y, {vectors}
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
verdict:
  %state = select i1 %opened, i32 0, i32 2
  ret i32 %state
}}
"""


def _run(vectors: int, is_x86: bool) -> str:
    """`@run`: takes blocks, a few at a time, until none is left."""
    c, w = Context, Worker
    return f"""
define i32 @run(ptr %ctx, ptr %wk) {{
entry:
{_IEEE_ON if is_x86 else ""}  %inside.ptr = getelementptr i64, ptr %ctx, i64 {int(c.INSIDE)}
  %inside.old = atomicrmw add ptr %inside.ptr, i64 1 seq_cst
  %next.ptr = getelementptr i64, ptr %ctx, i64 {int(c.NEXT_BLOCK)}
  %total.ptr = getelementptr i64, ptr %ctx, i64 {int(c.BLOCKS)}
  %stop.ptr = getelementptr i64, ptr %ctx, i64 {int(c.STOP)}
  %fuel.ptr = getelementptr i64, ptr %wk, i64 {int(w.FUEL)}
  %chunk.ptr = getelementptr i64, ptr %ctx, i64 {int(c.CHUNK)}
  %gx.ptr = getelementptr i64, ptr %ctx, i64 {int(c.GRID_X)}
  %gy.ptr = getelementptr i64, ptr %ctx, i64 {int(c.GRID_Y)}
  %x.ptr = getelementptr i64, ptr %wk, i64 {int(w.BLOCK_X)}
  %y.ptr = getelementptr i64, ptr %wk, i64 {int(w.BLOCK_Y)}
  %z.ptr = getelementptr i64, ptr %wk, i64 {int(w.BLOCK_Z)}
  %b.ptr = getelementptr i64, ptr %wk, i64 {int(w.BLOCK)}
  br label %take
take:
  %stop = load atomic i64, ptr %stop.ptr monotonic, align 8
  %stopped = icmp ne i64 %stop, 0
  br i1 %stopped, label %leave, label %fetch
fetch:
  %chunk = load i64, ptr %chunk.ptr
  %start = atomicrmw add ptr %next.ptr, i64 %chunk monotonic
  %total = load i64, ptr %total.ptr
  %gx = load i64, ptr %gx.ptr
  %gy = load i64, ptr %gy.ptr
  %row = icmp eq i64 %gx, %total
  %stop.full = add i64 %start, %chunk
  %inside.total = icmp slt i64 %stop.full, %total
  %end = select i1 %inside.total, i64 %stop.full, i64 %total
  %left = icmp slt i64 %start, %total
  br i1 %left, label %pay, label %leave
pay:
  ; A grid of very many blocks can be stopped as an endless loop can.
  %price = mul i64 %chunk, {vectors + 1}
  %fuel = load i64, ptr %fuel.ptr
  %fuel.left = sub i64 %fuel, %price
  store i64 %fuel.left, ptr %fuel.ptr
  %fuelled = icmp sgt i64 %fuel.left, 0
  br i1 %fuelled, label %go, label %refill
refill:
  %refill.ptr = getelementptr i64, ptr %ctx, i64 {int(c.REFILL)}
  %refill.call = load ptr, ptr %refill.ptr
  %more.fuel = call i64 %refill.call(ptr %ctx, ptr %wk)
  store i64 %more.fuel, ptr %fuel.ptr
  %goes = icmp sgt i64 %more.fuel, 0
  br i1 %goes, label %go, label %empty
empty:
  %fault.ptr = getelementptr i64, ptr %wk, i64 {int(w.FAULT)}
  store i64 {int(Fault.STOPPED)}, ptr %fault.ptr
  br label %fail
go:
  %b = phi i64 [ %start, %pay ], [ %start, %refill ], [ %b.next, %went ]
  br i1 %row, label %straight, label %split
straight:
  store i64 %b, ptr %x.ptr
  store i64 0, ptr %y.ptr
  store i64 0, ptr %z.ptr
  br label %do
split:
  %x = urem i64 %b, %gx
  %rest = udiv i64 %b, %gx
  %y = urem i64 %rest, %gy
  %z = udiv i64 %rest, %gy
  store i64 %x, ptr %x.ptr
  store i64 %y, ptr %y.ptr
  store i64 %z, ptr %z.ptr
  br label %do
do:
  store i64 %b, ptr %b.ptr
  %err = call i32 @block(ptr %ctx, ptr %wk)
  %bad = icmp ne i32 %err, 0
  br i1 %bad, label %fail, label %went
went:
  %b.next = add i64 %b, 1
  %more = icmp slt i64 %b.next, %end
  br i1 %more, label %go, label %take
fail:
  store atomic i64 1, ptr %stop.ptr monotonic, align 8
  br label %leave
leave:
  %result = phi i32 [ 0, %take ], [ 0, %fetch ], [ 1, %fail ]
{_IEEE_OFF if is_x86 else ""}  %inside.end = atomicrmw sub ptr %inside.ptr, i64 1 seq_cst
  ret i32 %result
}}
"""
