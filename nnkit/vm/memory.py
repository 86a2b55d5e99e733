"""Every memory access of a kernel is lowered here, and here alone: checked, then made.

Accesses of one block through the same base register share one check: of the whole range that they span, against
the allocation in which the last check ended (global memory) or against the window's size (shared, local,
parameters). Only if that fails does the slow check look at every lane of every access; it alone reports an error.
What is provable when the kernel is compiled is not checked at all.

How lanes' addresses relate decides the access: one scalar for all, one vector where they follow each other, a few
vectors and a fixed permutation where they form another short pattern, else a gather or scatter.
"""

import math
from dataclasses import dataclass, field

from nnkit.ptx.cfg import Block, destinations
from nnkit.ptx.ir import SIZES, Address, Immediate, Instruction, Operand, PtxError, Register, Symbol, Vector
from nnkit.vm.builder import BITS, LLVM_TYPES
from nnkit.vm.emitter import Emitter, Handler, Value
from nnkit.vm.layout import LOCAL_WINDOW, SHARED_WINDOW, WINDOW_SIZE, Context, Worker
from nnkit.vm.shapes import VARYING, Shape
from nnkit.vm.table import effect

SPACES = ("global", "shared", "const", "param", "local")
LONGEST_PERMUTATION = 256
"""Bytes that a load may span to be made of plain loads and a permutation."""

_ORDER = r"(\.(weak|volatile|relaxed|acquire|release|mmio))?(\.(cta|cluster|gpu|sys))?"
_CACHE = r"(\.(ca|cg|cs|lu|cv|wb|wt))?(\.nc)?(\.L[12]::\w+)*"
_SHAPE = r"(\.v[248])?\.([bus](8|16|32|64)|f32|f64)"
effect(
    rf"ld{_ORDER}(\.global|\.shared(::cta)?|\.const|\.param(::entry|::func)?|\.local)?{_CACHE}{_SHAPE}",
    rf"ldu(\.global)?{_SHAPE}",
    rf"st{_ORDER}(\.global|\.shared(::cta)?|\.local|\.param(::func)?)?{_CACHE}{_SHAPE}",
    r"prefetchu?(\.(global|local))?\.L[12](::evict_\w+)?",
    r"prefetchu\.L1",
)


@dataclass(frozen=True)
class Access:
    """One load, store or atomic operation: `count` elements of `size` bytes at base + offset."""

    item: Instruction
    space: str
    base: Operand
    offset: int
    size: int
    count: int
    writes: bool

    @property
    def bytes(self) -> int:
        """Bytes of one lane."""
        return self.size * self.count


@dataclass
class Group:
    """Accesses that share a check."""

    members: list[Access] = field(default_factory=list)
    done: bool = False
    fast: str = ""
    """Whether all lanes were found in one piece: an i1, or "" where that is certain."""
    anchor: str = ""
    """Lane 0's address at the lowest offset, as a host pointer."""
    low: int = 0

    @property
    def writes(self) -> int:
        """1 where any member writes."""
        return int(any(member.writes for member in self.members))

    @property
    def span(self) -> int:
        """Bytes from the lowest offset to the highest end."""
        return max(m.offset + m.bytes for m in self.members) - self.low


def access_of(item: Instruction) -> Access | None:
    """What an instruction does to memory, if it does anything."""
    if item.opcode not in ("ld", "ldu", "st", "atom", "red"):
        return None
    loads = item.opcode in ("ld", "ldu", "atom")
    place = item.operands[1 if loads else 0]
    if not isinstance(place, Address):
        raise PtxError(f"{item.name} without an address", item.line)
    value = item.operands[0 if loads else 1]
    count = len(value.parts) if isinstance(value, Vector) and item.opcode in ("ld", "ldu", "st") else 1
    names = [m.partition("::")[0] for m in item.modifiers]
    space = next((m for m in names if m in SPACES), "generic" if item.opcode != "ldu" else "global")
    base: Operand = place.base
    offset = place.offset
    if isinstance(base, Symbol):
        base, offset = Symbol(base.name), offset + base.offset
    elif isinstance(base, Immediate):
        base, offset = Immediate(0), offset + base.value
    writes = item.opcode in ("st", "atom", "red")
    return Access(item, space, base, offset, SIZES[item.type], count, writes)


def plan(e: Emitter, block: Block) -> None:
    """Find which accesses of a block share a check: same space, same value of the base register."""
    versions: dict[str, int] = {}
    groups: dict[object, Group] = {}
    for item in block.instructions:
        access = access_of(item)
        if access is not None:
            version = versions.get(access.base.name, 0) if isinstance(access.base, Register) else 0
            key = (access.space, access.base, version)
            group = groups.setdefault(key, Group())
            group.members.append(access)
            e.guards[id(item)] = group
        for name in destinations(item):
            versions[name] = versions.get(name, 0) + 1
    for group in groups.values():
        group.low = min(member.offset for member in group.members)


# -- checks ---------------------------------------------------------------------------------------------------


def check(e: Emitter, access: Access) -> tuple[Group, Value]:
    """Make sure that the access is allowed, before it is made; returns its group and the base's value."""
    group = e.guards[id(access.item)]
    assert isinstance(group, Group)
    base = base_value(e, access)
    if not group.done:
        group.done = True
        if access.space == "generic":
            _check_generic(e, group, base)
        elif not _provable(e, group, access.space, base.shape):
            _check(e, group, access.space, base)
        if base.shape.kind != "varying" and access.space not in ("local", "generic"):
            group.anchor = _anchor(e, access.space, base, group.low)
    return group, base


def base_value(e: Emitter, access: Access) -> Value:
    """The base address in 64 bits; window addresses may be given in 32."""
    base = access.base
    if isinstance(base, Register):
        value = e.read(base.name)
        if BITS[value.kind] == 64:
            return e.as_kind(value, "i64")
        return e.as_kind(value, "i32")
    if isinstance(base, Symbol) and base.name in e.globals:
        return e.address_of(base.name, 0, "i64")
    return e.operand(base, "u64")


def _limit(e: Emitter, space: str) -> str:
    if space == "shared":
        return e.context_field(Context.SHARED_BYTES)
    return str(e.memory.local_bytes if space == "local" else e.memory.parameter_bytes)


def _known_limit(e: Emitter, space: str) -> int:
    sizes = {"shared": e.memory.static_shared, "local": e.memory.local_bytes, "param": e.memory.parameter_bytes}
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
        what = {"ld": "load", "ldu": "load", "st": "store"}.get(member.item.opcode, "atomic operation")
        site = e.site(member.item, what, member.space, member.bytes)
        rows += [member.offset, member.bytes, site, int(member.writes)]
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
    moved = e.one.binary("add", kind, base.scalar, str(widest.offset))
    odd = e.one.binary("and", kind, moved, str(unit - 1))
    return [e.one.compare("eq", kind, odd, "0")]


def _for_all(e: Emitter, condition: str) -> str:
    """Whether a condition holds in every active lane."""
    if e.mask:
        condition = e.all.binary("or", "i1", condition, e.all.binary("xor", "i1", e.lanes(), e.all.constant("i1", 1)))
    full = "true" if e.width == 1 else "-1"
    return e.one.compare("eq", f"i{e.width}", e.as_mask(condition), full)


def _check(e: Emitter, group: Group, space: str, base: Value) -> None:
    """The fast check, the slow one behind it, and a fault behind that."""
    window = space in ("shared", "local", "param")
    cache = -1
    if not window:
        cache, e.caches = e.caches, e.caches + 1
    conditions = _alignment_test(e, group, base)
    conditions += _window_test(e, group, space, base) if window else _table_test(e, group, cache, base)
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
    arguments += f", i64 {len(group.members)}, i64 {_limit(e, space) if window else cache}, i64 {group.writes}"
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
        start = e.one.resize(base.kind, base.scalar, "i64")
        return e.text.op(f"call ptr @spread(ptr %wk, i64 {start}, ptr {_pattern(e, base.shape)})")
    addresses = e.worker_field(Worker.ADDRESSES, "ptr")
    copy = Value(base.shape, base.kind, base.scalar, base.vector)
    vector = e.all.resize(base.kind, e.vector(copy), "i64")
    e.text.line(f"store {e.all.type('i64')} {vector}, ptr {addresses}, align 8")
    return addresses


def _pattern(e: Emitter, shape: Shape) -> str:
    """A constant with every lane's distance from lane 0, one for each pattern."""
    steps = shape.pattern or (0,) * e.width
    name = e.patterns.get(steps)
    if name is None:
        name = e.patterns[steps] = f"@pattern{len(e.patterns)}"
        values = ", ".join(f"i64 {step}" for step in steps)
        e.text.globals.append(f"{name} = private constant [{e.width} x i64] [{values}]")
    return name


def _extent(group: Group, shape: Shape) -> tuple[int, int]:
    """Lowest byte relative to the base, and how many bytes all lanes span from there."""
    least, most = min(shape.pattern, default=0), max(shape.pattern, default=0)
    return group.low + least, group.span + most - least


def _table_test(e: Emitter, group: Group, cache: int, base: Value) -> list[str]:
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
    return [_for_all(e, both) if wide else both]


def _window_test(e: Emitter, group: Group, space: str, base: Value) -> list[str]:
    """Windows: offsets wrap modulo 2^32, as on the hardware."""
    low, span = _extent(group, base.shape)
    wide = base.shape.kind == "varying"
    lanes = e.all if wide else e.one
    address = e.vector(base) if wide else base.scalar
    offset = lanes.resize(base.kind, address, "i32")
    moved = lanes.resize("i32", lanes.binary("add", "i32", offset, lanes.constant("i32", low)), "i64")
    end = lanes.binary("add", "i64", moved, lanes.constant("i64", span))
    limit = _limit(e, space)
    inside = lanes.compare("ule", "i64", end, e.splat("i64", limit) if wide else limit)
    return [_for_all(e, inside) if wide else inside]


def _check_generic(e: Emitter, group: Group, base: Value) -> None:
    """Generic addresses go by their windows; they are rare, so the slow check does it all."""
    vector = e.vector(base)
    active = e.lanes()
    members = _members(e, group)
    addresses = _store_addresses(e, base)
    cache, e.caches = e.caches, e.caches + 1
    in_shared, in_local = _in_window(e, vector, SHARED_WINDOW), _in_window(e, vector, LOCAL_WINDOW)
    elsewhere = e.all.binary("xor", "i1", e.all.binary("or", "i1", in_shared, in_local), e.all.constant("i1", 1))
    for which, name, last in (
        (in_shared, "check_window", _limit(e, "shared")),
        (in_local, "check_window", _limit(e, "local")),
        (elsewhere, "check_global", str(cache)),
    ):
        mask = e.one.resize(f"i{e.width}", e.as_mask(e.all.binary("and", "i1", which, active)), "i64")
        some = e.one.compare("ne", "i64", mask, "0")
        ask, fine = e.text.label("ask"), e.text.label("fine")
        e.text.branch(some, ask, fine)
        e.text.place(ask)
        count = len(group.members)
        arguments = f"ptr %ctx, ptr %wk, ptr {addresses}, i64 {mask}, ptr {members}, i64 {count}, i64 {last}, "
        arguments += f"i64 {group.writes}"
        good = e.text.op(f"call i1 @{name}({arguments})")
        e.text.branch(good, fine, "fault")
        e.text.place(fine)


def _in_window(e: Emitter, vector: str, window: int) -> str:
    distance = e.all.binary("sub", "i64", vector, e.all.constant("i64", window))
    return e.all.compare("ult", "i64", distance, e.all.constant("i64", WINDOW_SIZE))


# -- addresses ------------------------------------------------------------------------------------------------


def _space_pointer(e: Emitter, space: str) -> str:
    if space == "shared":
        return e.worker_field(Worker.SHARED, "ptr")
    return e.context_field(Context.PARAMETERS, "ptr")


def _anchor(e: Emitter, space: str, base: Value, low: int) -> str:
    if space in ("shared", "param"):
        offset = e.one.resize(base.kind, base.scalar, "i32")
        moved = e.one.resize("i32", e.one.binary("add", "i32", offset, str(low)), "i64")
        return e.text.op(f"getelementptr i8, ptr {_space_pointer(e, space)}, i64 {moved}")
    return e.text.op(f"inttoptr i64 {e.one.binary('add', 'i64', base.scalar, str(low))} to ptr")


def pointer(e: Emitter, group: Group, access: Access, extra: int = 0) -> str:
    """Lane 0's address of an access, `extra` bytes further."""
    step = access.offset - group.low + extra
    return e.text.op(f"getelementptr i8, ptr {group.anchor}, i64 {step}") if step else group.anchor


def pointers(e: Emitter, access: Access, base: Value, extra: int = 0) -> str:
    """Every lane's host address of an access, as a vector of pointers; nothing computed here is kept."""
    base = Value(base.shape, base.kind, base.scalar, base.vector)
    vector = e.vector(base)
    offset = access.offset + extra
    if access.space in ("shared", "local", "param"):
        short = e.all.resize(base.kind, vector, "i32")
        moved = e.all.binary("add", "i32", short, e.all.constant("i32", offset))
        distance = e.all.resize("i32", moved, "i64")
        host = e.all.binary("add", "i64", _lane_starts(e, access.space), distance)
    else:
        host = e.all.binary("add", "i64", vector, e.all.constant("i64", offset))
        if access.space == "generic":
            host = _translated(e, host)
    return e.text.op(f"inttoptr {e.all.type('i64')} {host} to {e.all.type('ptr')}")


def _lane_starts(e: Emitter, space: str) -> str:
    """Where each lane's window begins in host memory."""
    if space != "local":
        return e.splat("i64", e.text.op(f"ptrtoint ptr {_space_pointer(e, space)} to i64"))
    start = e.worker_field(Worker.LOCAL)
    vector = e.text.op("load i64, ptr %vector")
    skipped = e.one.binary("mul", "i64", vector, str(e.width * e.memory.local_bytes))
    first = e.splat("i64", e.one.binary("add", "i64", start, skipped))
    steps = ", ".join(f"i64 {lane * e.memory.local_bytes}" for lane in range(e.width))
    return e.all.binary("add", "i64", first, f"<{steps}>")


def _translated(e: Emitter, address: str) -> str:
    host = address
    for window, space in ((SHARED_WINDOW, "shared"), (LOCAL_WINDOW, "local")):
        distance = e.all.binary("sub", "i64", address, e.all.constant("i64", window))
        moved = e.all.binary("add", "i64", _lane_starts(e, space), distance)
        host = e.all.select(_in_window(e, address, window), "i64", moved, host)
    return host


# -- loads and stores -----------------------------------------------------------------------------------------


def element_type(item: Instruction) -> str:
    """The LLVM type of one element in memory."""
    return LLVM_TYPES[item.type]


def _load(e: Emitter, item: Instruction) -> None:
    access = access_of(item)
    assert access is not None
    group, base = check(e, access)
    if "acquire" in item.modifiers:
        e.text.line("fence seq_cst")
    target = item.operands[0]
    parts = target.parts if isinstance(target, Vector) else (target,)
    kind = element_type(item)
    for part, value in zip(parts, _loaded(e, access, group, base, kind), strict=True):
        if part is not None:
            e.assign(part, value, sign=item.type[0] == "s")


def _loaded(e: Emitter, access: Access, group: Group, base: Value, kind: str) -> list[Value]:
    shape = base.shape
    if access.space in ("local", "generic") or shape.kind == "varying":
        return _vectors(kind, _gathered(e, access, base, kind))
    volatile = "volatile " if "volatile" in access.item.modifiers or "relaxed" in access.item.modifiers else ""
    if shape.kind == "uniform":
        values = []
        for index in range(access.count):
            place = pointer(e, group, access, index * access.size)
            loaded = e.text.op(f"load {volatile}{kind}, ptr {place}, align {access.size}")
            values.append(Value(Shape("uniform"), kind, scalar=loaded))
        return values
    contiguous = shape.pattern == tuple(lane * access.bytes for lane in range(e.width))
    if contiguous and access.count == 1 and shape.kind == "pattern":
        return _vectors(kind, [_contiguous(e, access, group, kind, volatile)])
    span = max(shape.pattern) - min(shape.pattern) + access.bytes
    if span > LONGEST_PERMUTATION or any(step % access.size for step in shape.pattern):
        if not contiguous:
            return _vectors(kind, _gathered(e, access, base, kind))
    if not group.fast:
        return _vectors(kind, _permuted(e, access, group, shape, kind))
    return _vectors(kind, _either(e, access, group, base, kind, contiguous))


def _vectors(kind: str, names: list[str]) -> list[Value]:
    return [Value(VARYING, kind, vector=name) for name in names]


def _contiguous(e: Emitter, access: Access, group: Group, kind: str, volatile: str) -> str:
    """Lane after lane: one vector. Inactive lanes may lie outside, so they are masked unless all are inside."""
    full = e.all.type(kind)
    place = pointer(e, group, access)
    if not e.mask or not group.fast:
        return e.text.op(f"load {volatile}{full}, ptr {place}, align {access.size}")
    suffix = f"{e.all.mangled(kind)}.p0"
    e.text.declarations.add(f"declare {full} @llvm.masked.load.{suffix}(ptr, i32, {e.all.type('i1')}, {full})")
    return e.text.op(
        f"call {full} @llvm.masked.load.{suffix}(ptr {place}, i32 {access.size}, {e.all.type('i1')} {e.lanes()}, "
        f"{full} zeroinitializer)"
    )


def _permuted(e: Emitter, access: Access, group: Group, shape: Shape, kind: str) -> list[str]:
    """The whole span as one long vector, its elements picked lane by lane. All of it is in one allocation."""
    least = min(shape.pattern)
    length = (max(shape.pattern) - least + access.bytes) // access.size
    long = f"<{length} x {kind}>"
    place = pointer(e, group, access, least)
    loaded = e.text.op(f"load {long}, ptr {place}, align {access.size}")
    found = []
    for index in range(access.count):
        picks = ", ".join(f"i32 {(step - least) // access.size + index}" for step in shape.pattern)
        found.append(
            e.text.op(f"shufflevector {long} {loaded}, {long} poison, <{e.width} x i32> <{picks}>")
        )
    return found


def _gathered(e: Emitter, access: Access, base: Value, kind: str) -> list[str]:
    full, places = e.all.type(kind), e.all.type("ptr")
    suffix = f"{e.all.mangled(kind)}.v{e.width}p0"
    e.text.declarations.add(
        f"declare {full} @llvm.masked.gather.{suffix}({places}, i32, {e.all.type('i1')}, {full})"
    )
    lanes = e.lanes()
    found = []
    for index in range(access.count):
        where = pointers(e, access, base, index * access.size)
        found.append(
            e.text.op(
                f"call {full} @llvm.masked.gather.{suffix}({places} {where}, i32 {access.size}, "
                f"{e.all.type('i1')} {lanes}, {full} zeroinitializer)"
            )
        )
    return found


def _either(
    e: Emitter, access: Access, group: Group, base: Value, kind: str, contiguous: bool
) -> list[str]:
    """The fast form where the whole span was found in one piece, a gather where not."""
    text = e.text
    quick, slow, join = text.label("quick"), text.label("gather"), text.label("loaded")
    text.likely(group.fast, quick, slow)
    text.place(quick)
    if contiguous and access.count == 1:
        place = pointer(e, group, access)
        fast = [text.op(f"load {e.all.type(kind)}, ptr {place}, align {access.size}")]
    else:
        fast = _permuted(e, access, group, base.shape, kind)
    text.jump(join)
    text.place(slow)
    other = _gathered(e, access, base, kind)
    text.jump(join)
    text.place(join)
    full = e.all.type(kind)
    return [
        text.op(f"phi {full} [ {a}, %{quick} ], [ {b}, %{slow} ]") for a, b in zip(fast, other, strict=True)
    ]


def _store(e: Emitter, item: Instruction) -> None:
    access = access_of(item)
    assert access is not None
    if access.space == "param":
        raise PtxError("a kernel's parameters cannot be written", item.line)
    group, base = check(e, access)
    source = item.operands[1]
    parts = source.parts if isinstance(source, Vector) else (source,)
    kind = element_type(item)
    values = [e.operand(part, item.type) for part in parts]
    shape = base.shape
    if "release" in item.modifiers:
        e.text.line("fence seq_cst")
    if access.space in ("local", "generic") or shape.kind == "varying":
        _scatter(e, access, base, kind, [e.vector(value) for value in values])
    elif shape.kind == "uniform":
        _store_one(e, access, group, kind, values)
    elif shape.pattern != tuple(lane * access.bytes for lane in range(e.width)):
        _scatter(e, access, base, kind, [e.vector(value) for value in values])
    else:
        _store_contiguous(e, access, group, base, kind, [e.vector(value) for value in values])


def _store_one(e: Emitter, access: Access, group: Group, kind: str, values: list[Value]) -> None:
    """All lanes write to one place: the last active lane's value stays."""
    for index, value in enumerate(values):
        scalar = value.scalar
        if value.shape.kind != "uniform":
            last = last_lane(e)
            scalar = e.text.op(f"extractelement {e.all.type(kind)} {e.vector(value)}, i64 {last}")
        place = pointer(e, group, access, index * access.size)
        volatile = "volatile " if "volatile" in access.item.modifiers else ""
        e.text.line(f"store {volatile}{kind} {scalar}, ptr {place}, align {access.size}")


def last_lane(e: Emitter) -> str:
    """The highest active lane."""
    if not e.mask:
        return str(e.width - 1)
    e.text.declarations.add("declare i64 @llvm.ctlz.i64(i64, i1)")
    zeros = e.text.op(f"call i64 @llvm.ctlz.i64(i64 {e.mask64()}, i1 false)")
    return e.text.op(f"sub i64 63, {zeros}")


def _store_contiguous(
    e: Emitter, access: Access, group: Group, base: Value, kind: str, values: list[str]
) -> None:
    text = e.text
    needs_branch = base.shape.kind == "likely" or access.count > 1
    conditions = []
    if base.shape.kind == "likely" and group.fast:
        conditions.append(group.fast)
    if access.count > 1 and e.mask:
        full = "true" if e.width == 1 else "-1"
        conditions.append(e.one.compare("eq", f"i{e.width}", e.mask, full))
    if not needs_branch or not conditions:
        _store_line(e, access, group, kind, values)
        return
    ok = conditions[0] if len(conditions) == 1 else e.one.binary("and", "i1", *conditions)
    quick, slow, join = text.label("quick"), text.label("scatter"), text.label("stored")
    text.likely(ok, quick, slow)
    text.place(quick)
    _store_line(e, access, group, kind, values)
    text.jump(join)
    text.place(slow)
    _scatter(e, access, base, kind, values)
    text.jump(join)
    text.place(join)


def _store_line(e: Emitter, access: Access, group: Group, kind: str, values: list[str]) -> None:
    """One vector store; the elements of a vector access are interleaved first."""
    place = pointer(e, group, access)
    full = e.all.type(kind)
    if access.count > 1:
        length, width = access.count * e.width, e.width
        while len(values) > 1:
            long, indices = f"<{width} x {kind}>", ", ".join(f"i32 {i}" for i in range(2 * width))
            values = [
                e.text.op(f"shufflevector {long} {a}, {long} {b}, <{2 * width} x i32> <{indices}>")
                for a, b in zip(values[::2], values[1::2], strict=True)
            ]
            width *= 2
        picks = ", ".join(f"i32 {part * e.width + lane}" for lane in range(e.width) for part in range(access.count))
        long = f"<{length} x {kind}>"
        mixed = e.text.op(f"shufflevector {long} {values[0]}, {long} poison, <{length} x i32> <{picks}>")
        e.text.line(f"store {long} {mixed}, ptr {place}, align {access.size}")
    elif not e.mask:
        e.text.line(f"store {full} {values[0]}, ptr {place}, align {access.size}")
    else:
        suffix = f"{e.all.mangled(kind)}.p0"
        e.text.declarations.add(f"declare void @llvm.masked.store.{suffix}({full}, ptr, i32, {e.all.type('i1')})")
        e.text.line(
            f"call void @llvm.masked.store.{suffix}({full} {values[0]}, ptr {place}, i32 {access.size}, "
            f"{e.all.type('i1')} {e.lanes()})"
        )


def _scatter(e: Emitter, access: Access, base: Value, kind: str, values: list[str]) -> None:
    full, places = e.all.type(kind), e.all.type("ptr")
    suffix = f"{e.all.mangled(kind)}.v{e.width}p0"
    e.text.declarations.add(f"declare void @llvm.masked.scatter.{suffix}({full}, {places}, i32, {e.all.type('i1')})")
    lanes = e.lanes()
    for index, value in enumerate(values):
        where = pointers(e, access, base, index * access.size)
        e.text.line(
            f"call void @llvm.masked.scatter.{suffix}({full} {value}, {places} {where}, i32 {access.size}, "
            f"{e.all.type('i1')} {lanes})"
        )


def _nothing(e: Emitter, item: Instruction) -> None:
    """Hints change no result."""


HANDLERS: dict[str, Handler] = {"ld": _load, "ldu": _load, "st": _store, "prefetch": _nothing, "prefetchu": _nothing}
