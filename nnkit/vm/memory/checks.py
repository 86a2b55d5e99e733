"""Is an access allowed? The fast check in line, the slow one behind it.

Accesses of one block through the same base register share one check: of the whole range that they span,
against the allocation in which the last check ended (global memory) or against the window's size (shared,
local, parameters). Only if that fails does the slow check look at every lane of every access; it alone
reports an error. What is provable when the kernel is compiled is not checked at all.

What must hold: **the address that is checked is, bit for bit, the address that is accessed, for every active
lane, whatever lanes hold that are not active.** An active lane's address is its base plus the offset in the
register's own width, 32 or 64 bits, as a signed number; an access computes it in one of two ways:

- lane by lane (`addresses.pointers`): the same operations as in the check, so the same bits;
- from lane 0 (`group.anchor`), plus the lane's step in the pattern, plus the distance between two offsets.
  Lane 0 may not be active, and its base may lie anywhere. With a register of 64 bits all of it is exact
  modulo 2^64, as the host's addresses are. With one of 32 bits the true address A of an active lane is known
  only modulo 2^32, the anchor is a sign extension, so in [-2^31, 2^31), steps lie within +-2^29 (`NEAR`) and
  distances in [0, 2^30) (`access.FAR`): the sum is A plus a multiple of 2^32, in [-2.5, 3.5) * 2^30. As A,
  which was checked, lies in a window of less than 2^30 bytes, the multiple is 0.

Bytes that no active lane asked for are touched only where the whole span, inactive lanes included, was found
inside one allocation (`group.fast`, or provable).
"""

import math
from dataclasses import replace

from nnkit.vm.analysis.shapes import VARYING, Shape
from nnkit.vm.emit.emitter import Emitter
from nnkit.vm.emit.masks import every_lane
from nnkit.vm.emit.values import Value
from nnkit.vm.memory.access import Access, Group, group_of, site_of
from nnkit.vm.text.builder import BITS, is_literal
from nnkit.vm.text.layout import WINDOWS, Context, Worker

NEAR = 1 << 29
"""Steps of a pattern below which an access may start from lane 0, and spans that a fast check may add up."""


def _is_near(shape: Shape) -> bool:
    """Whether every lane lies near lane 0, so that its address may be computed from there."""
    return all(abs(step) <= NEAR for step in shape.pattern)


class BoundsCheck:
    """In front of the first access of a group: whether all of the group's are allowed."""

    def before(self, e: Emitter, access: Access, base: Value, mask: str) -> None:
        """Check the group, unless it needs no check; `group.fast` is what its accesses may rely on."""
        group = group_of(e, access)
        if group.checked:
            return
        group.checked = True
        if access.space == "generic":
            _check_generic(e, group, base)
        elif _provable(e, group, access.space, base.shape):
            group.fast = ""
        else:
            _check(e, group, access.space, base)

    def behind(self, e: Emitter, access: Access, base: Value, mask: str) -> None:
        """Nothing is left to check."""


def _limit(e: Emitter, space: str) -> str:
    if space == "shared":
        return e.context_field(Context.SHARED_BYTES)
    return str(e.kernel.memory.local_bytes if space == "local" else e.kernel.memory.parameter_bytes)


def _known_limit(e: Emitter, space: str) -> int:
    sizes = {
        "shared": e.kernel.memory.static_shared,
        "local": e.kernel.memory.local_bytes,
        "param": e.kernel.memory.parameter_bytes,
    }
    return sizes.get(space, -1)


def _aligned(group: Group, shape: Shape) -> bool:
    """Whether every lane of every member is provably aligned."""
    unit = math.gcd(shape.multiple, *shape.pattern)
    return shape.is_scalar and all(unit % m.bytes == 0 and m.offset % m.bytes == 0 for m in group.members)


def _provable(e: Emitter, group: Group, space: str, shape: Shape) -> bool:
    limit = _known_limit(e, space)
    if not shape.is_scalar or limit < 0 or not _aligned(group, shape):
        return False
    return shape.least + group.low >= 0 and shape.most + group.low + group.span <= limit


def _members(e: Emitter, group: Group) -> str:
    """The table of the group's accesses, for the slow check."""
    rows = []
    for member in group.members:
        rows += [member.offset, member.bytes, site_of(e, member), int(member.writes)]
    name = f"@members{len(e.text.globals)}"
    values = ", ".join(f"i64 {value}" for value in rows)
    e.text.globals.append(f"{name} = private constant [{len(rows)} x i64] [{values}]")
    return name


def _alignment_test(e: Emitter, group: Group, base: Value) -> list[str]:
    """Conditions that make every member aligned; ["false"] where only the slow check can tell."""
    if _aligned(group, base.shape):
        return []
    widest = max(group.members, key=lambda m: m.bytes)
    unit = widest.bytes
    if any((m.offset - widest.offset) % m.bytes for m in group.members):
        return ["false"]
    if unit == 1:
        return []
    kind = base.kind
    if base.shape.kind == "varying":
        moved = e.all.binary("add", kind, e.vector(base), e.all.constant(kind, widest.offset))
        odd = e.all.binary("and", kind, moved, e.all.constant(kind, unit - 1))
        return [_for_all(e, e.all.compare("eq", kind, odd, e.all.constant(kind, 0)))]
    if any(step % unit for step in base.shape.pattern):
        return ["false"]
    moved = e.one.binary("add", kind, base.scalar, e.one.constant(kind, widest.offset))
    odd = e.one.binary("and", kind, moved, str(unit - 1))
    return [e.one.compare("eq", kind, odd, "0")]


def _for_all(e: Emitter, condition: str) -> str:
    """Whether a condition holds in every active lane."""
    if e.block.mask:
        condition = e.all.binary(
            "or", "i1", condition, e.all.binary("xor", "i1", e.lanes(), e.all.constant("i1", 1))
        )
    return e.one.compare("eq", f"i{e.width}", e.as_mask(condition), every_lane(e.width))


def _check(e: Emitter, group: Group, space: str, base: Value) -> None:
    """The fast check, the slow one behind it, and a fault behind that."""
    window = space in ("shared", "local", "param")
    cache = -1
    if not window:
        cache, e.kernel.caches = e.kernel.caches, e.kernel.caches + 1
    conditions = _alignment_test(e, group, base)
    if not _is_near(base.shape):
        conditions.append("false")
    elif window:
        conditions.append(_window_test(e, group, space, base))
    else:
        conditions.append(_table_test(e, group, cache, base))
    if base.shape.kind == "likely":
        conditions.append(base.flag)
    ok = conditions[0]
    for condition in conditions[1:]:
        ok = e.one.binary("and", "i1", ok, condition)
    text = e.text
    slow, allowed, go = text.label("slow"), text.label("allowed"), text.label("checked")
    here = text.label("here")
    text.jump(here)
    text.place(here)
    text.likely(ok, go, slow)
    text.place(slow)
    addresses = _store_addresses(e, base)
    arguments = f"ptr %ctx, ptr %wk, ptr {addresses}, i64 {e.mask64()}, ptr {_members(e, group)}"
    arguments += f", i64 {len(group.members)}, i64 {_limit(e, space) if window else cache}"
    arguments += f", i64 {64 - BITS[base.kind] if window else group.writes}"
    name = "check_window" if window else "check_global"
    good = text.op(f"call i1 @{name}({arguments})")
    text.branch(good, allowed, "fault")
    text.place(allowed)
    text.jump(go)
    text.place(go)
    group.fast = text.op(f"phi i1 [ true, %{here} ], [ false, %{allowed} ]")


def _store_addresses(e: Emitter, base: Value) -> str:
    """The lanes' addresses where the slow check reads them; nothing computed here is kept."""
    if base.shape.is_scalar:
        start = e.one.resize(base.kind, base.scalar, "i64", sign=True)
        return e.text.op(f"call ptr @spread(ptr %wk, i64 {start}, ptr {_pattern(e, base.shape)})")
    addresses = e.worker_field(Worker.ADDRESSES, "ptr")
    copy = Value(base.shape, base.kind, base.scalar, base.vector)
    vector = e.all.resize(base.kind, e.vector(copy), "i64", sign=True)
    e.text.line(f"store {e.all.type('i64')} {vector}, ptr {addresses}, align 8")
    return addresses


def _pattern(e: Emitter, shape: Shape) -> str:
    """A constant with every lane's distance from lane 0, one for each pattern."""
    steps = shape.pattern or (0,) * e.width
    name = e.kernel.patterns.get(steps)
    if name is None:
        name = e.kernel.patterns[steps] = f"@pattern{len(e.kernel.patterns)}"
        values = ", ".join(f"i64 {step}" for step in steps)
        e.text.globals.append(f"{name} = private constant [{e.width} x i64] [{values}]")
    return name


def _extent(group: Group, shape: Shape) -> tuple[int, int]:
    """Lowest byte relative to the base, and how many bytes all lanes span from there."""
    least, most = min(shape.pattern, default=0), max(shape.pattern, default=0)
    return group.low + least, group.span + most - least


def _table_test(e: Emitter, group: Group, cache: int, base: Value) -> str:
    """Global memory: inside the allocation that this place met last."""
    sites = e.worker_field(Worker.SITES, "ptr")
    known = e.text.op(f"getelementptr i64, ptr {sites}, i64 {2 * cache}")
    start = e.text.op(f"load i64, ptr {known}")
    size = e.text.op(f"load i64, ptr {e.text.op(f'getelementptr i64, ptr {known}, i64 1')}")
    low, span = _extent(group, base.shape)
    wide = base.shape.kind == "varying"
    lanes = e.all if wide else e.one
    address = e.vector(base) if wide else base.scalar
    if wide:
        start, size = e.splat("i64", start), e.splat("i64", size)
    # Unsigned distances: below the start they wrap to something huge.
    moved = lanes.binary("add", "i64", address, lanes.constant("i64", low))
    distance = lanes.binary("sub", "i64", moved, start)
    begins = lanes.compare("ule", "i64", distance, size)
    rest = lanes.binary("sub", "i64", size, distance)
    fits = lanes.compare("uge", "i64", rest, lanes.constant("i64", span))
    both = lanes.binary("and", "i1", begins, fits)
    return _for_all(e, both) if wide else both


def _window_test(e: Emitter, group: Group, space: str, base: Value) -> str:
    """Windows: addresses wrap modulo 2^32 or 2^64, as the register is wide."""
    low, span = _extent(group, base.shape)
    wide = base.shape.kind == "varying"
    lanes = e.all if wide else e.one
    address = e.vector(base) if wide else base.scalar
    moved = lanes.binary("add", base.kind, address, lanes.constant(base.kind, low))
    moved = lanes.resize(base.kind, moved, "i64")
    room = _room(e, space, span)
    inside = lanes.compare("ult", "i64", moved, e.splat("i64", room) if wide else room)
    return _for_all(e, inside) if wide else inside


def _room(e: Emitter, space: str, span: int) -> str:
    """At how many places of a window that many bytes can start."""
    limit = _limit(e, space)
    if is_literal(limit):
        return str(max(int(limit) - span + 1, 0))
    return e.one.call("usub.sat", "i64", limit, str(span - 1))


def _check_generic(e: Emitter, group: Group, base: Value) -> None:
    """Generic addresses go by their windows; they are rare, so the slow check does it all.

    The address itself decides, not its base, which may lie outside of the window that the offset leads into.
    """
    access = group.members[0]
    vector = e.all.binary("add", "i64", e.vector(base), e.all.constant("i64", access.offset))
    members = _members(e, Group([replace(access, offset=0)]))
    addresses = _store_addresses(e, Value(VARYING, "i64", vector=vector))
    cache, e.kernel.caches = e.kernel.caches, e.kernel.caches + 1
    # Nothing in the parameters may be written.
    limits = ["0" if space == "param" and access.writes else _limit(e, space) for space in WINDOWS]
    good = e.text.op(
        f"call i1 @check_generic(ptr %ctx, ptr %wk, ptr {addresses}, i64 {e.mask64()}, ptr {members}, i64 1, "
        f"i64 {cache}, i64 {group.writes}, {', '.join(f'i64 {limit}' for limit in limits)})"
    )
    fine = e.text.label("fine")
    e.text.branch(good, fine, "fault")
    e.text.place(fine)
