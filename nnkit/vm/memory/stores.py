"""Stores: a scalar where all lanes write to one place, a vector where they lie side by side, or a scatter."""

from dataclasses import dataclass

from nnkit.ptx.ir import Operand
from nnkit.vm.emit.emitter import Emitter
from nnkit.vm.emit.masks import every_lane
from nnkit.vm.emit.operands import value_of
from nnkit.vm.emit.values import Value
from nnkit.vm.memory.access import Access, Group, streams
from nnkit.vm.memory.addresses import pointer, pointers


@dataclass(frozen=True)
class Store:
    """Writes one element for each operand."""

    given: tuple[Operand | None, ...]
    volatile: bool = False
    """Whether it may not be left out or made twice."""
    release: bool = False
    """Whether it begins with a fence."""

    def emit(self, e: Emitter, access: Access, group: Group, base: Value) -> None:
        """See `nnkit.vm.memory.lowering.Transfer`."""
        values = [value_of(e, operand, access.item.type) for operand in self.given]
        if self.release:
            e.text.line("fence seq_cst")
        shape, kind = base.shape, access.element
        each_alone = access.space in ("local", "generic") or shape.kind == "varying"
        if shape.kind == "uniform" and not each_alone:
            _store_one(e, access, group, values, "volatile " if self.volatile else "")
        elif each_alone or shape.pattern != tuple(lane * access.bytes for lane in range(e.width)):
            _scatter(e, access, base, kind, [e.vector(value) for value in values])
        else:
            _store_contiguous(e, access, group, base, kind, [e.vector(value) for value in values])


def _store_one(e: Emitter, access: Access, group: Group, values: list[Value], volatile: str) -> None:
    """All lanes write to one place: the last active lane's value stays."""
    kind = access.element
    for index, value in enumerate(values):
        scalar = value.scalar
        if value.shape.kind != "uniform":
            last = _last_lane(e)
            scalar = e.text.op(f"extractelement {e.all.type(kind)} {e.vector(value)}, i64 {last}")
        place = pointer(e, group, access, index * access.size)
        e.text.line(f"store {volatile}{kind} {scalar}, ptr {place}, align {access.size}")


def _last_lane(e: Emitter) -> str:
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
    if e.block.mask and access.count == 1 and not conditions and not streams(e):
        _masked_store(e, access, group, kind, values[0])
        return
    if e.block.mask:
        conditions.append(e.one.compare("eq", f"i{e.width}", e.block.mask, every_lane(e.width)))
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
