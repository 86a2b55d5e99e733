"""The slow checks of addresses, in LLVM IR: what every compiled kernel carries with it.

An access ends up here when the allocation that its place remembers does not hold all lanes
(`nnkit.vm.memory.checks`): each active lane is looked up in the sorted table of allocations, and the first
that is nowhere is reported.
"""

from nnkit.vm.text.layout import WINDOW_SIZE, WINDOWS, Context, Fault, Worker

PROBABLE = '!0 = !{!"branch_weights", i32 2000, i32 1}'


def field(pointer: str, index: int, name: str) -> str:
    """A line that computes the address of word `index` of a record."""
    return f"{name} = getelementptr i64, ptr {pointer}, i64 {index}"


def checks(width: int) -> str:
    """`@find`, and `@check_global`, `@check_window` and `@check_generic` for vectors of that width.

    `members` points to records of 4 words (offset, bytes, site, writes); every active lane of every member
    must be inside one allocation, aligned, and writable where it writes. They return whether all is well; if
    not, the worker's fault fields tell the rest. Of a window's addresses the upper `unused` bits say nothing:
    32 where the register has 32 bits; they are signed, so that one before the start reads so.
    """
    c, w, f = Context, Worker, Fault
    loop = """
entry:
  br label %members
members:
  %m = phi i64 [ 0, %entry ], [ %m.next, %member.done ]
  %m.go = icmp slt i64 %m, %count
  br i1 %m.go, label %member, label %good
member:
  %record = getelementptr [4 x i64], ptr %members.ptr, i64 %m
  %offset = load i64, ptr %record
  %bytes.ptr = getelementptr i64, ptr %record, i64 1
  %bytes = load i64, ptr %bytes.ptr
  %site.ptr = getelementptr i64, ptr %record, i64 2
  %site = load i64, ptr %site.ptr
  %writes.ptr = getelementptr i64, ptr %record, i64 3
  %writes = load i64, ptr %writes.ptr
  br label %lanes
lanes:
  %l = phi i64 [ 0, %member ], [ %l.next, %lane.done ]
  %l.go = icmp slt i64 %l, WIDTH
  br i1 %l.go, label %lane, label %member.done
lane:
  %bit.at = lshr i64 %mask, %l
  %bit = trunc i64 %bit.at to i1
  br i1 %bit, label %active, label %lane.done
active:
  %slot = getelementptr i64, ptr %addresses, i64 %l
  %start = load i64, ptr %slot
  %address.full = add i64 %start, %offset
ADDRESS
  %low.bits = sub i64 %bytes, 1
  %odd = and i64 %address, %low.bits
  %aligned = icmp eq i64 %odd, 0
BODY
lane.done:
  %l.next = add i64 %l, 1
  br label %lanes
member.done:
  %m.next = add i64 %m, 1
  br label %members
good:
  ret i1 true
bad:
  %kind = phi i64 KINDS
  %fault.ptr = getelementptr i64, ptr %wk, i64 FAULT
  store i64 %kind, ptr %fault.ptr
  %fsite.ptr = getelementptr i64, ptr %wk, i64 FSITE
  store i64 %site, ptr %fsite.ptr
  %flane.ptr = getelementptr i64, ptr %wk, i64 FLANE
  store i64 %l, ptr %flane.ptr
  %faddr.ptr = getelementptr i64, ptr %wk, i64 FADDR
  store i64 %address, ptr %faddr.ptr
  ret i1 false
"""
    loop = (
        loop.replace("WIDTH", str(width))
        .replace("FAULT", str(int(w.FAULT)))
        .replace("FSITE", str(int(w.FAULT_SITE)))
        .replace("FLANE", str(int(w.FAULT_LANE)))
        .replace("FADDR", str(int(w.FAULT_ADDRESS)))
    )
    in_table = f"""
  %found = call i64 @find(ptr %ctx, i64 %address, i64 %bytes)
  %there = icmp sge i64 %found, 0
  br i1 %there, label %present, label %bad
present:
  br i1 %aligned, label %straight, label %bad
straight:
  %table.ptr = getelementptr i64, ptr %ctx, i64 {int(c.ALLOCATIONS)}
  %table = load ptr, ptr %table.ptr
  %row = getelementptr [3 x i64], ptr %table, i64 %found
  %row.start = load i64, ptr %row
  %row.size.ptr = getelementptr i64, ptr %row, i64 1
  %row.size = load i64, ptr %row.size.ptr
  %row.flags.ptr = getelementptr i64, ptr %row, i64 2
  %row.flags = load i64, ptr %row.flags.ptr
  %forbidden = and i64 %row.flags, %writes
  %allowed = icmp eq i64 %forbidden, 0
  br i1 %allowed, label %remember, label %bad
remember:
  %sites.ptr = getelementptr i64, ptr %wk, i64 {int(w.SITES)}
  %sites = load ptr, ptr %sites.ptr
  %known = getelementptr [2 x i64], ptr %sites, i64 %cache
  ; Constant memory is remembered only by a place that never writes.
  %risky = and i64 %row.flags, %any.writes
  %safe = icmp eq i64 %risky, 0
  br i1 %safe, label %keep, label %lane.done
keep:
  store i64 %row.start, ptr %known
  %known.size = getelementptr i64, ptr %known, i64 1
  store i64 %row.size, ptr %known.size
  br label %lane.done
"""
    in_window = """
  %begins = icmp ule i64 %address, %limit
  %rest = sub i64 %limit, %address
  %fits = icmp ule i64 %bytes, %rest
  %inside = and i1 %begins, %fits
  br i1 %inside, label %present, label %bad
present:
  br i1 %aligned, label %lane.done, label %bad
"""
    kinds_table = (
        f"[ {int(f.MEMORY)}, %active ], [ {int(f.MISALIGNED)}, %present ], [ {int(f.READ_ONLY)}, %straight ]"
    )
    kinds_window = f"[ {int(f.MEMORY)}, %active ], [ {int(f.MISALIGNED)}, %present ]"
    split = "".join(
        f"""
  %{name}.distance = sub i64 %address.full, {window}
  %{name}.here = icmp ult i64 %{name}.distance, {WINDOW_SIZE}"""
        for name, window in WINDOWS.items()
    )
    split += """
  %some.1 = or i1 %param.here, %shared.here
  %windowed = or i1 %some.1, %local.here
  %limit.1 = select i1 %shared.here, i64 %limit.shared, i64 %limit.local
  %limit = select i1 %param.here, i64 %limit.param, i64 %limit.1
  %cut = and i64 %address.full, 4294967295
  %address = select i1 %windowed, i64 %cut, i64 %address.full"""
    in_either = f"""
  br i1 %windowed, label %window, label %global
window:
  %end = add i64 %cut, %bytes
  %inside = icmp ule i64 %end, %limit
  br i1 %inside, label %placed, label %bad
placed:
  br i1 %aligned, label %lane.done, label %bad
global:{in_table}"""
    kinds_either = (
        f"[ {int(f.MEMORY)}, %window ], [ {int(f.MISALIGNED)}, %placed ], "
        f"[ {int(f.MEMORY)}, %global ], [ {int(f.MISALIGNED)}, %present ], [ {int(f.READ_ONLY)}, %straight ]"
    )
    signed = """
  %address.up = shl i64 %address.full, %unused
  %address = ashr i64 %address.up, %unused"""

    def filled(address: str, body: str, kinds: str) -> str:
        return loop.replace("ADDRESS", address.lstrip("\n")).replace("BODY", body).replace("KINDS", kinds)

    generic = filled(split, in_either, kinds_either)
    table = filled("  %address = add i64 %address.full, 0", in_table, kinds_table)
    window = filled(signed, in_window, kinds_window)
    return f"""
define internal i64 @find(ptr %ctx, i64 %address, i64 %bytes) noinline {{
entry:
  %table.ptr = getelementptr i64, ptr %ctx, i64 {int(c.ALLOCATIONS)}
  %table = load ptr, ptr %table.ptr
  %count.ptr = getelementptr i64, ptr %ctx, i64 {int(c.ALLOCATION_COUNT)}
  %count = load i64, ptr %count.ptr
  br label %search
search:
  %low = phi i64 [ 0, %entry ], [ %low.next, %halve ]
  %high = phi i64 [ %count, %entry ], [ %high.next, %halve ]
  %open = icmp slt i64 %low, %high
  br i1 %open, label %halve, label %decide
halve:
  %total = add i64 %low, %high
  %middle = lshr i64 %total, 1
  %row = getelementptr [3 x i64], ptr %table, i64 %middle
  %start = load i64, ptr %row
  %before = icmp ule i64 %start, %address
  %middle.up = add i64 %middle, 1
  %low.next = select i1 %before, i64 %middle.up, i64 %low
  %high.next = select i1 %before, i64 %high, i64 %middle
  br label %search
decide:
  %index = sub i64 %low, 1
  %none = icmp slt i64 %index, 0
  br i1 %none, label %nowhere, label %verify
verify:
  %its = getelementptr [3 x i64], ptr %table, i64 %index
  %its.start = load i64, ptr %its
  %its.size.ptr = getelementptr i64, ptr %its, i64 1
  %its.size = load i64, ptr %its.size.ptr
  %distance = sub i64 %address, %its.start
  %begins = icmp ule i64 %distance, %its.size
  %rest = sub i64 %its.size, %distance
  %fits = icmp ule i64 %bytes, %rest
  %inside = and i1 %begins, %fits
  br i1 %inside, label %here, label %nowhere
here:
  ret i64 %index
nowhere:
  ret i64 -1
}}

define internal i1 @check_global(
    ptr %ctx, ptr %wk, ptr %addresses, i64 %mask, ptr %members.ptr, i64 %count, i64 %cache, i64 %any.writes
) noinline cold {{{table}}}

define internal i1 @check_window(
    ptr %ctx, ptr %wk, ptr %addresses, i64 %mask, ptr %members.ptr, i64 %count, i64 %limit, i64 %unused
) noinline cold {{{window}}}

define internal i1 @check_generic(
    ptr %ctx, ptr %wk, ptr %addresses, i64 %mask, ptr %members.ptr, i64 %count, i64 %cache, i64 %any.writes,
    i64 %limit.param, i64 %limit.shared, i64 %limit.local
) noinline cold {{{generic}}}

; The addresses of lanes that form a pattern, written where the checks read them.
define internal ptr @spread(ptr %wk, i64 %base, ptr %pattern) noinline cold {{
entry:
  %addresses.ptr = getelementptr i64, ptr %wk, i64 {int(w.ADDRESSES)}
  %addresses = load ptr, ptr %addresses.ptr
  br label %loop
loop:
  %l = phi i64 [ 0, %entry ], [ %l.next, %loop ]
  %from = getelementptr i64, ptr %pattern, i64 %l
  %step = load i64, ptr %from
  %address = add i64 %base, %step
  %to = getelementptr i64, ptr %addresses, i64 %l
  store i64 %address, ptr %to
  %l.next = add i64 %l, 1
  %more = icmp slt i64 %l.next, {width}
  br i1 %more, label %loop, label %done
done:
  ret ptr %addresses
}}
"""
