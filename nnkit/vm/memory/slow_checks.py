"""The slow checks of addresses, in LLVM IR: what every compiled kernel carries with it.

An access ends up here when the allocation that its place remembers does not hold all lanes
(`nnkit.vm.memory.checks`): each active lane is looked up in the sorted table of allocations, and the first
that is nowhere is reported.
"""

from nnkit.vm.text.layout import WINDOW_SIZE, WINDOWS
from nnkit.vm.text.template import fill

PROBABLE = '!0 = !{!"branch_weights", i32 2000, i32 1}'


def checks(width: int) -> str:
    """`@check_global`, `@check_window` and `@check_generic` for vectors of that width, `@find` and `@spread`.

    `members` points to records of 4 words (offset, bytes, site, writes); every active lane of every member
    must be inside one allocation, aligned, and writable where it writes. They return whether all is well; if
    not, the worker's fault fields tell the rest. Of a window's addresses the upper `unused` bits say nothing:
    32 where the register has 32 bits; they are signed, so that one before the start reads so.
    """
    table, window = "i64 %cache, i64 %any.writes", "i64 %limit, i64 %unused"
    limits = ", ".join(f"i64 %limit.{name}" for name in WINDOWS)
    windows = "".join(
        fill(_NEAR_WINDOW, name=name, start=start, size=WINDOW_SIZE) for name, start in WINDOWS.items()
    )
    return (
        fill(_FIND)
        + _check("global", width, table, address="  %address = add i64 %given, 0", judge=_IN_TABLE)
        + _check("window", width, window, address=_SIGNED, judge=_IN_WINDOW)
        + _check("generic", width, f"{table}, {limits}", address=windows + _FROM_WINDOW, judge=_IN_EITHER)
        + fill(_SPREAD, width=width)
    )


def _check(name: str, width: int, more: str, address: str, judge: str) -> str:
    """`@check_NAME`: `address` makes `%address` of the lane's `%given` one, and `judge` says if it may be."""
    return fill(_LANES, name=name, width=width, more=more, address=address, judge=judge)


_LANES = """
define internal i1 @check_$name(
    ptr %ctx, ptr %wk, ptr %addresses, i64 %mask, ptr %members, i64 %count, $more
) noinline cold {
entry:
  br label %next.member
next.member:
  %m = phi i64 [ 0, %entry ], [ %m.next, %member.done ]
  %m.more = icmp slt i64 %m, %count
  br i1 %m.more, label %member, label %good
member:
  %record = getelementptr [4 x i64], ptr %members, i64 %m
  %offset = load i64, ptr %record[0]
  %bytes = load i64, ptr %record[1]
  %site = load i64, ptr %record[2]
  %writes = load i64, ptr %record[3]
  br label %next.lane
next.lane:
  %l = phi i64 [ 0, %member ], [ %l.next, %lane.done ]
  %l.more = icmp slt i64 %l, $width
  br i1 %l.more, label %lane, label %member.done
lane:
  %bit.at = lshr i64 %mask, %l
  %active = trunc i64 %bit.at to i1
  br i1 %active, label %look, label %lane.done
look:
  %start = load i64, ptr %addresses[%l]
  %given = add i64 %start, %offset
$address
  %low.bits = sub i64 %bytes, 1
  %odd = and i64 %address, %low.bits
  %aligned = icmp eq i64 %odd, 0
$judge
lane.done:
  %l.next = add i64 %l, 1
  br label %next.lane
member.done:
  %m.next = add i64 %m, 1
  br label %next.member
good:
  ret i1 true
nowhere:
  br label %bad
misaligned:
  br label %bad
read.only:
  br label %bad
bad:
  %fault = phi i64 [ $Fault.MEMORY, %nowhere ],
    [ $Fault.MISALIGNED, %misaligned ], [ $Fault.READ_ONLY, %read.only ]
  store i64 %fault, ptr %wk[$Worker.FAULT]
  store i64 %site, ptr %wk[$Worker.FAULT_SITE]
  store i64 %l, ptr %wk[$Worker.FAULT_LANE]
  store i64 %address, ptr %wk[$Worker.FAULT_ADDRESS]
  ret i1 false
}
"""

_IN_TABLE = """
  %row.number = call i64 @find(ptr %ctx, i64 %address, i64 %bytes)
  %found = icmp sge i64 %row.number, 0
  br i1 %found, label %in.table, label %nowhere
in.table:
  br i1 %aligned, label %permission, label %misaligned
permission:
  %table = load ptr, ptr %ctx[$Context.ALLOCATIONS]
  %row = getelementptr [3 x i64], ptr %table, i64 %row.number
  %row.flags = load i64, ptr %row[2]
  %forbidden = and i64 %row.flags, %writes
  %allowed = icmp eq i64 %forbidden, 0
  br i1 %allowed, label %in.allocation, label %read.only
in.allocation:
  ; Constant memory is remembered only by a place that never writes.
  %risky = and i64 %row.flags, %any.writes
  %safe = icmp eq i64 %risky, 0
  br i1 %safe, label %remember, label %lane.done
remember:
  %sites = load ptr, ptr %wk[$Worker.SITES]
  %known = getelementptr [2 x i64], ptr %sites, i64 %cache
  %row.start = load i64, ptr %row[0]
  %row.size = load i64, ptr %row[1]
  store i64 %row.start, ptr %known[0]
  store i64 %row.size, ptr %known[1]
  br label %lane.done
"""

_SIGNED = """
  %upper = shl i64 %given, %unused
  %address = ashr i64 %upper, %unused
"""

_IN_WINDOW = """
  %begins = icmp ule i64 %address, %limit
  %rest = sub i64 %limit, %address
  %fits = icmp ule i64 %bytes, %rest
  %inside = and i1 %begins, %fits
  br i1 %inside, label %in.window, label %nowhere
in.window:
  br i1 %aligned, label %lane.done, label %misaligned
"""

_NEAR_WINDOW = """
  %$name.distance = sub i64 %given, $start
  %$name.here = icmp ult i64 %$name.distance, $size
"""

_FROM_WINDOW = """
  %param.or.shared = or i1 %param.here, %shared.here
  %windowed = or i1 %param.or.shared, %local.here
  %limit.other = select i1 %shared.here, i64 %limit.shared, i64 %limit.local
  %limit = select i1 %param.here, i64 %limit.param, i64 %limit.other
  %in.its.window = and i64 %given, 4294967295
  %address = select i1 %windowed, i64 %in.its.window, i64 %given
"""

_IN_EITHER = f"""
  br i1 %windowed, label %window, label %global
window:{_IN_WINDOW}
global:{_IN_TABLE}
"""

_FIND = """
; The number of the allocation that holds all those bytes, or -1. Rows are (start, size, flags), sorted.
define internal i64 @find(ptr %ctx, i64 %address, i64 %bytes) noinline {
entry:
  %table = load ptr, ptr %ctx[$Context.ALLOCATIONS]
  %count = load i64, ptr %ctx[$Context.ALLOCATION_COUNT]
  br label %search
search:
  %low = phi i64 [ 0, %entry ], [ %low.next, %halve ]
  %high = phi i64 [ %count, %entry ], [ %high.next, %halve ]
  %open = icmp slt i64 %low, %high
  br i1 %open, label %halve, label %decide
halve:
  %sum = add i64 %low, %high
  %middle = lshr i64 %sum, 1
  %row = getelementptr [3 x i64], ptr %table, i64 %middle
  %start = load i64, ptr %row[0]
  %before = icmp ule i64 %start, %address
  %middle.up = add i64 %middle, 1
  %low.next = select i1 %before, i64 %middle.up, i64 %low
  %high.next = select i1 %before, i64 %high, i64 %middle
  br label %search
decide:
  ; The last that begins at the address or before it.
  %last = sub i64 %low, 1
  %none = icmp slt i64 %last, 0
  br i1 %none, label %nowhere, label %verify
verify:
  %its.row = getelementptr [3 x i64], ptr %table, i64 %last
  %its.start = load i64, ptr %its.row[0]
  %its.size = load i64, ptr %its.row[1]
  %distance = sub i64 %address, %its.start
  %begins = icmp ule i64 %distance, %its.size
  %rest = sub i64 %its.size, %distance
  %fits = icmp ule i64 %bytes, %rest
  %inside = and i1 %begins, %fits
  br i1 %inside, label %here, label %nowhere
here:
  ret i64 %last
nowhere:
  ret i64 -1
}
"""

_SPREAD = """
; The addresses of lanes that form a pattern, written where the checks read them.
define internal ptr @spread(ptr %wk, i64 %base, ptr %pattern) noinline cold {
entry:
  %addresses = load ptr, ptr %wk[$Worker.ADDRESSES]
  br label %next
next:
  %l = phi i64 [ 0, %entry ], [ %l.next, %next ]
  %step = load i64, ptr %pattern[%l]
  %address = add i64 %base, %step
  store i64 %address, ptr %addresses[%l]
  %l.next = add i64 %l, 1
  %more = icmp slt i64 %l.next, $width
  br i1 %more, label %next, label %done
done:
  ret ptr %addresses
}
"""
