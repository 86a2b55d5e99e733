"""Takes blocks until none is left, in LLVM IR: what a thread that takes part in a launch runs."""

from nnkit.vm.analysis.geometry import Launch
from nnkit.vm.code.barriers import settle
from nnkit.vm.code.rounds import block_in_rounds
from nnkit.vm.text.layout import PART_WORDS, Context
from nnkit.vm.text.template import fill


def scheduler(parts: bool, regions: int, launch: Launch, is_x86: bool) -> str:
    """`@run(ctx, wk)`: takes blocks until none is left or something went wrong; returns 1 for the latter.

    `parts` says whether lanes of a vector may wait at different barriers.
    """
    fill_shared = _POISON_SHARED if launch.options.poison else ""
    memset = "declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)\n"
    if regions == 1:
        # Nobody ever waits: one call does the block.
        block = fill(_AT_ONCE, fill_shared=fill_shared, vectors=launch.vectors)
    else:
        block = block_in_rounds(regions, launch, fill_shared, parts) + settle(launch, parts)
    return memset + block + run(launch.vectors, is_x86)


def run(vectors: int, is_x86: bool) -> str:
    """`@run`: takes blocks, a few at a time, until none is left; `@block` runs one."""
    return fill(
        _RUN,
        ieee_declared=_IEEE_DECLARED if is_x86 else "",
        ieee_on=_IEEE_ON if is_x86 else "",
        ieee_off=_IEEE_OFF if is_x86 else "",
        part_words=PART_WORDS,
        context_words=Context.WORDS,
        cost=vectors + 1,
    )


# Another library may have told this thread to flush denormals; kernels get IEEE arithmetic (MXCSR 0x1F80).
_IEEE_DECLARED = """
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)
"""
_IEEE_ON = """
  %mode.old = alloca i32
  %mode.ieee = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %mode.old)
  store i32 8064, ptr %mode.ieee
  call void @llvm.x86.sse.ldmxcsr(ptr %mode.ieee)
"""
_IEEE_OFF = "  call void @llvm.x86.sse.ldmxcsr(ptr %mode.old)"

_POISON_SHARED = """
  %shared.bytes = load i64, ptr %ctx[$Context.SHARED_BYTES]
  %shared = load ptr, ptr %wk[$Worker.SHARED]
  call void @llvm.memset.p0.i64(ptr %shared, i8 -1, i64 %shared.bytes, i1 false)
"""

_AT_ONCE = """
define internal i32 @block(ptr %ctx, ptr %wk) {
entry:
$fill_shared
  %failed = call i32 @region0(ptr %ctx, ptr %wk, i64 0, i64 $vectors)
  ret i32 %failed
}
"""

_RUN = """
$ieee_declared
define i32 @run(ptr %ctx, ptr %wk) {
entry:
$ieee_on
  %parts = load i64, ptr %ctx[$Context.PARTS]
  %own = load i64, ptr %wk[$Worker.PART]
  br label %turn
turn:
  ; First the worker's own part of the grid, then what is left of the others', the lowest first.
  %turn.number = phi i64 [ 0, %entry ], [ %turn.number, %went ], [ %turn.next, %exhausted ]
  %stop = load atomic i64, ptr %ctx[$Context.STOP] monotonic, align 8
  %stopped = icmp ne i64 %stop, 0
  br i1 %stopped, label %well, label %take
take:
  %is.first = icmp eq i64 %turn.number, 0
  %other = sub i64 %turn.number, 1
  %part = select i1 %is.first, i64 %own, i64 %other
  %part.word = mul i64 %part, $part_words
  %part.place = add i64 %part.word, $context_words
  %part.next = getelementptr i64, ptr %ctx, i64 %part.place
  %chunk = load i64, ptr %ctx[$Context.CHUNK]
  %start = atomicrmw add ptr %part.next, i64 %chunk monotonic
  %part.end = load i64, ptr %part.next[1]
  %stop.full = add i64 %start, %chunk
  %inside = icmp slt i64 %stop.full, %part.end
  %end = select i1 %inside, i64 %stop.full, i64 %part.end
  %left = icmp slt i64 %start, %part.end
  br i1 %left, label %pay, label %exhausted
exhausted:
  %turn.next = add i64 %turn.number, 1
  %turn.more = icmp sle i64 %turn.next, %parts
  br i1 %turn.more, label %turn, label %well
pay:
  ; A grid of very many blocks can be stopped as an endless loop can.
  %price = mul i64 %chunk, $cost
  %fuel = load i64, ptr %wk[$Worker.FUEL]
  %fuel.left = sub i64 %fuel, %price
  store i64 %fuel.left, ptr %wk[$Worker.FUEL]
  %fuelled = icmp sgt i64 %fuel.left, 0
  br i1 %fuelled, label %go, label %refill
refill:
  %refill.call = load ptr, ptr %ctx[$Context.REFILL]
  %more.fuel = call i64 %refill.call(ptr %ctx, ptr %wk)
  store i64 %more.fuel, ptr %wk[$Worker.FUEL]
  %refilled = icmp sgt i64 %more.fuel, 0
  br i1 %refilled, label %go, label %empty
empty:
  store i64 $Fault.STOPPED, ptr %wk[$Worker.FAULT]
  br label %ill
go:
  %grid.x = load i64, ptr %ctx[$Context.GRID_X]
  %grid.y = load i64, ptr %ctx[$Context.GRID_Y]
  %total = load i64, ptr %ctx[$Context.BLOCKS]
  %row = icmp eq i64 %grid.x, %total
  br label %block
block:
  %b = phi i64 [ %start, %go ], [ %b.next, %went ]
  store i64 %b, ptr %wk[$Worker.BLOCK]
  br i1 %row, label %straight, label %split
straight:
  store i64 %b, ptr %wk[$Worker.BLOCK_X]
  store i64 0, ptr %wk[$Worker.BLOCK_Y]
  store i64 0, ptr %wk[$Worker.BLOCK_Z]
  br label %do
split:
  %x = urem i64 %b, %grid.x
  %rest = udiv i64 %b, %grid.x
  %y = urem i64 %rest, %grid.y
  %z = udiv i64 %rest, %grid.y
  store i64 %x, ptr %wk[$Worker.BLOCK_X]
  store i64 %y, ptr %wk[$Worker.BLOCK_Y]
  store i64 %z, ptr %wk[$Worker.BLOCK_Z]
  br label %do
do:
  %error = call i32 @block(ptr %ctx, ptr %wk)
  %bad = icmp ne i32 %error, 0
  br i1 %bad, label %ill, label %went
went:
  %b.next = add i64 %b, 1
  %b.more = icmp slt i64 %b.next, %end
  br i1 %b.more, label %block, label %turn
ill:
  store atomic i64 1, ptr %ctx[$Context.STOP] monotonic, align 8
  br label %leave
well:
  br label %leave
leave:
  %result = phi i32 [ 0, %well ], [ 1, %ill ]
$ieee_off
  ret i32 %result
}
"""
