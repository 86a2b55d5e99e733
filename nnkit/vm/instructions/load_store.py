"""Loads and stores.

How lanes' addresses relate decides the access: one scalar for all, one vector where they follow each other,
one long vector and a fixed permutation where they form another short pattern, else a gather or scatter. Every
access is checked before it is made, see `nnkit.vm.memory.checks`.
"""

from nnkit.ptx.ir import Instruction, PtxError, Vector
from nnkit.vm.analysis.shapes import VARYING, Shape
from nnkit.vm.emit.emitter import Emitter
from nnkit.vm.emit.values import Value
from nnkit.vm.forms.table import effect
from nnkit.vm.memory.access import Access, Group, access_of
from nnkit.vm.memory.addresses import pointer, pointers
from nnkit.vm.memory.checks import check
from nnkit.vm.text.builder import LLVM_TYPES

LONGEST_PERMUTATION = 256
"""Bytes that a load may span to be made of plain loads and a permutation."""

_SCOPE = r"\.(cta|cluster|gpu|sys)"
_HINT = (
    r"(\.L1::(evict_(normal|unchanged|first|last)|no_allocate)|\.L2::(evict_\w+|cache_hint|(64|128|256)B))*"
)
_SHAPE = r"(\.v[248])?\.([bus](8|16|32|64)|f32|f64)"
_LOADED, _STORED = r"(\.ca|\.cg|\.cs|\.lu|\.cv)?", r"(\.wb|\.cg|\.cs|\.wt)?"
_SHARED = r"(\.global|\.shared(::cta)?)?"
"""Spaces that other threads see: there an access may have an order."""


def element_type(item: Instruction) -> str:
    """The LLVM type of one element in memory."""
    return LLVM_TYPES[item.type]


@effect(
    ">~t* []",
    rf"ld(\.weak)?(\.global|\.shared(::cta)?|\.const|\.param(::entry|::func)?|\.local)?{_LOADED}{_HINT}{_SHAPE}",
    rf"ld(\.weak)?\.global{_LOADED}\.nc{_HINT}{_SHAPE}",
    rf"ld\.volatile(\.global|\.shared(::cta)?|\.const|\.local)?{_HINT}{_SHAPE}",
    rf"ld(\.mmio)?\.(relaxed|acquire){_SCOPE}{_SHARED}{_HINT}{_SHAPE}",
    lanes="loaded",
    access="load",
)
@effect(">~t* []", rf"ldu(\.global)?{_SHAPE}", lanes="loaded", access="load", space="global")
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
    volatile = (
        "volatile " if "volatile" in access.item.modifiers or "relaxed" in access.item.modifiers else ""
    )
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
    is_short = span <= LONGEST_PERMUTATION and not any(step % access.size for step in shape.pattern)
    if not (contiguous or is_short):
        return _vectors(kind, _gathered(e, access, base, kind))
    if not group.fast:
        return _vectors(kind, _permuted(e, access, group, shape, kind))
    return _vectors(kind, _either(e, access, group, base, kind, contiguous))


def _vectors(kind: str, names: list[str]) -> list[Value]:
    return [Value(VARYING, kind, vector=name) for name in names]


def _contiguous(e: Emitter, access: Access, group: Group, kind: str, volatile: str) -> str:
    """Lane after lane: one vector. Inactive lanes may lie outside: masked, unless all are inside.

    Masked loads and stores take two to three times as long where memory is not in the cache.
    """
    full, text = e.all.type(kind), e.text
    place = pointer(e, group, access)
    plain = f"load {volatile}{full}, ptr {place}, align {access.size}"
    if not e.block.mask or not group.fast:
        return text.op(plain)
    if not _streams(e):
        return _masked_load(e, access, place, kind)
    quick, slow, join = text.label("quick"), text.label("masked"), text.label("loaded")
    text.likely(group.fast, quick, slow)
    text.place(quick)
    whole = text.op(plain)
    text.jump(join)
    text.place(slow)
    some = _masked_load(e, access, place, kind)
    text.jump(join)
    text.place(join)
    return text.op(f"phi {full} [ {whole}, %{quick} ], [ {some}, %{slow} ]")


def _streams(e: Emitter) -> bool:
    """Whether a kernel is likely to pass over much memory once: then a second form of its accesses pays."""
    return len(e.kernel.analysis.regions) == 1


def _masked_load(e: Emitter, access: Access, place: str, kind: str) -> str:
    full = e.all.type(kind)
    suffix = f"{e.all.mangled(kind)}.p0"
    e.text.declarations.add(
        f"declare {full} @llvm.masked.load.{suffix}(ptr, i32, {e.all.type('i1')}, {full})"
    )
    return e.text.op(
        f"call {full} @llvm.masked.load.{suffix}(ptr {place}, i32 {access.size}, "
        f"{e.all.type('i1')} {e.lanes()}, {full} zeroinitializer)"
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
        found.append(e.text.op(f"shufflevector {long} {loaded}, {long} poison, <{e.width} x i32> <{picks}>"))
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


def _either(e: Emitter, access: Access, group: Group, base: Value, kind: str, contiguous: bool) -> list[str]:
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


@effect(
    "[] ~t*",
    rf"st(\.weak)?(\.global|\.shared(::cta)?|\.local|\.param(::func)?)?{_STORED}{_HINT}{_SHAPE}",
    rf"st\.volatile(\.global|\.shared(::cta)?|\.local)?{_HINT}{_SHAPE}",
    rf"st(\.mmio)?\.(relaxed|release){_SCOPE}{_SHARED}{_HINT}{_SHAPE}",
    access="store",
)
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
    if not e.block.mask:
        return str(e.width - 1)
    e.text.declarations.add("declare i64 @llvm.ctlz.i64(i64, i1)")
    zeros = e.text.op(f"call i64 @llvm.ctlz.i64(i64 {e.mask64()}, i1 false)")
    return e.text.op(f"sub i64 63, {zeros}")


def _store_contiguous(
    e: Emitter, access: Access, group: Group, base: Value, kind: str, values: list[str]
) -> None:
    """Plain where every lane is active and inside, else masked, or scattered where that cannot be."""
    text = e.text
    conditions = [group.fast] if base.shape.kind == "likely" and group.fast else []
    if e.block.mask and access.count == 1 and not conditions and not _streams(e):
        _masked_store(e, access, group, kind, values[0])
        return
    if e.block.mask:
        conditions.append(e.one.compare("eq", f"i{e.width}", e.block.mask, "true" if e.width == 1 else "-1"))
    if not conditions:
        _store_line(e, access, group, kind, values)
        return
    ok = conditions[0] if len(conditions) == 1 else e.one.binary("and", "i1", *conditions)
    quick, slow, join = text.label("quick"), text.label("masked"), text.label("stored")
    text.likely(ok, quick, slow)
    text.place(quick)
    _store_line(e, access, group, kind, values)
    text.jump(join)
    text.place(slow)
    if base.shape.kind == "likely" or access.count > 1:
        _scatter(e, access, base, kind, values)
    else:
        _masked_store(e, access, group, kind, values[0])
    text.jump(join)
    text.place(join)


def _store_line(e: Emitter, access: Access, group: Group, kind: str, values: list[str]) -> None:
    """One vector store of every lane; the elements of a vector access are interleaved first."""
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
        picks = ", ".join(
            f"i32 {part * e.width + lane}" for lane in range(e.width) for part in range(access.count)
        )
        long = f"<{length} x {kind}>"
        mixed = e.text.op(f"shufflevector {long} {values[0]}, {long} poison, <{length} x i32> <{picks}>")
        e.text.line(f"store {long} {mixed}, ptr {place}, align {access.size}")
    else:
        e.text.line(f"store {full} {values[0]}, ptr {place}, align {access.size}")


def _masked_store(e: Emitter, access: Access, group: Group, kind: str, value: str) -> None:
    full, place = e.all.type(kind), pointer(e, group, access)
    suffix = f"{e.all.mangled(kind)}.p0"
    e.text.declarations.add(f"declare void @llvm.masked.store.{suffix}({full}, ptr, i32, {e.all.type('i1')})")
    e.text.line(
        f"call void @llvm.masked.store.{suffix}({full} {value}, ptr {place}, i32 {access.size}, "
        f"{e.all.type('i1')} {e.lanes()})"
    )


def _scatter(e: Emitter, access: Access, base: Value, kind: str, values: list[str]) -> None:
    full, places = e.all.type(kind), e.all.type("ptr")
    suffix = f"{e.all.mangled(kind)}.v{e.width}p0"
    e.text.declarations.add(
        f"declare void @llvm.masked.scatter.{suffix}({full}, {places}, i32, {e.all.type('i1')})"
    )
    lanes = e.lanes()
    for index, value in enumerate(values):
        where = pointers(e, access, base, index * access.size)
        e.text.line(
            f"call void @llvm.masked.scatter.{suffix}({full} {value}, {places} {where}, i32 {access.size}, "
            f"{e.all.type('i1')} {lanes})"
        )


@effect(
    "[]",
    r"prefetch(\.(global|local))?\.L[12]",
    r"prefetch\.global\.L2::evict_(last|normal)",
    r"prefetchu\.L1",
)
def _nothing(e: Emitter, item: Instruction) -> None:
    """Hints change no result."""
