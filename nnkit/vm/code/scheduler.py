"""Takes blocks until none is left, in LLVM IR: what a thread that takes part in a launch runs."""

from nnkit.vm.analysis.geometry import Launch
from nnkit.vm.code.waiting import block_with_barriers
from nnkit.vm.text.layout import PART_WORDS, Context, Fault, Worker

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


def scheduler(parts: bool, regions: int, launch: Launch, is_x86: bool) -> str:
    """`@run(ctx, wk)`: takes blocks until none is left or something went wrong; returns 1 for the latter.

    `parts` says whether lanes of a vector may wait at different barriers.
    """
    c, w = Context, Worker
    fill = ""
    if launch.options.poison:
        fill = f"""
  %fill.bytes.ptr = getelementptr i64, ptr %ctx, i64 {int(c.SHARED_BYTES)}
  %fill.bytes = load i64, ptr %fill.bytes.ptr
  %fill.ptr = getelementptr i64, ptr %wk, i64 {int(w.SHARED)}
  %fill = load ptr, ptr %fill.ptr
  call void @llvm.memset.p0.i64(ptr %fill, i8 -1, i64 %fill.bytes, i1 false)"""
    if regions == 1:
        # Nobody ever waits: one call does the block.
        block = _AT_ONCE.format(vectors=launch.vectors, fill=fill)
    else:
        block = block_with_barriers(regions, launch.vectors, launch.threads, fill, parts)
    run = _run(launch.vectors, is_x86)
    head = "declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)\n" + (_IEEE_DECLARED if is_x86 else "")
    return (head + block + run).replace("WIDTH", str(launch.width))


_AT_ONCE = """
define internal i32 @block(ptr %ctx, ptr %wk) alwaysinline {{
entry:{fill}
  %failed = call i32 @region0(ptr %ctx, ptr %wk, i64 0, i64 {vectors})
  ret i32 %failed
}}
"""


def _run(vectors: int, is_x86: bool) -> str:
    """`@run`: takes blocks, a few at a time, until none is left."""
    c, w = Context, Worker
    return f"""
define i32 @run(ptr %ctx, ptr %wk) {{
entry:
{_IEEE_ON if is_x86 else ""}  %parts.ptr = getelementptr i64, ptr %ctx, i64 {int(c.PARTS)}
  %parts = load i64, ptr %parts.ptr
  %own.ptr = getelementptr i64, ptr %wk, i64 {int(w.PART)}
  %own = load i64, ptr %own.ptr
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
  ; First the worker's own part of the grid, then what is left of the others', the lowest first.
  %turn = phi i64 [ 0, %entry ], [ %turn, %went ], [ %turn.next, %exhausted ]
  %stop = load atomic i64, ptr %stop.ptr monotonic, align 8
  %stopped = icmp ne i64 %stop, 0
  br i1 %stopped, label %leave, label %fetch
fetch:
  %chunk = load i64, ptr %chunk.ptr
  %first = icmp eq i64 %turn, 0
  %other = sub i64 %turn, 1
  %part = select i1 %first, i64 %own, i64 %other
  %part.word = mul i64 %part, {PART_WORDS}
  %part.place = add i64 %part.word, {int(c.WORDS)}
  %part.ptr = getelementptr i64, ptr %ctx, i64 %part.place
  %part.end.ptr = getelementptr i64, ptr %part.ptr, i64 1
  %start = atomicrmw add ptr %part.ptr, i64 %chunk monotonic
  %part.end = load i64, ptr %part.end.ptr
  %total = load i64, ptr %total.ptr
  %gx = load i64, ptr %gx.ptr
  %gy = load i64, ptr %gy.ptr
  %row = icmp eq i64 %gx, %total
  %stop.full = add i64 %start, %chunk
  %inside.part = icmp slt i64 %stop.full, %part.end
  %end = select i1 %inside.part, i64 %stop.full, i64 %part.end
  %left = icmp slt i64 %start, %part.end
  br i1 %left, label %pay, label %exhausted
exhausted:
  %turn.next = add i64 %turn, 1
  %parts.left = icmp sle i64 %turn.next, %parts
  br i1 %parts.left, label %take, label %leave
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
  %result = phi i32 [ 0, %take ], [ 0, %exhausted ], [ 1, %fail ]
{_IEEE_OFF if is_x86 else ""}  ret i32 %result
}}
"""
