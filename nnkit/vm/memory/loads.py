"""Loads: how lanes' addresses relate decides the form.

One scalar for all lanes, one vector where they follow each other, one long vector and a fixed permutation
where they form another short pattern, else a gather.
"""

from dataclasses import dataclass

from nnkit.ptx.ir import Operand
from nnkit.vm.analysis.shapes import VARYING, Shape
from nnkit.vm.emit.emitter import Emitter
from nnkit.vm.emit.values import Value
from nnkit.vm.memory.access import Access, Group, streams
from nnkit.vm.memory.addresses import pointer, pointers

LONGEST_PERMUTATION = 256
"""Bytes that a load may span to be made of plain loads and a permutation."""


@dataclass(frozen=True)
class Load:
    """Reads one element for each register; a place without one is read all the same."""

    into: tuple[Operand | None, ...]
    volatile: bool = False
    """Whether it may not be left out or made twice."""
    acquire: bool = False
    """Whether it begins with a fence."""

    def emit(self, e: Emitter, access: Access, group: Group, base: Value) -> None:
        """See `nnkit.vm.memory.lowering.Transfer`."""
        if self.acquire:
            e.text.line("fence seq_cst")
        values = _loaded(e, access, group, base, "volatile " if self.volatile else "")
        for register, value in zip(self.into, values, strict=True):
            if register is not None:
                e.assign(register, value, sign=access.item.type[0] == "s")


def _loaded(e: Emitter, access: Access, group: Group, base: Value, volatile: str) -> list[Value]:
    shape, kind = base.shape, access.element
    if access.space in ("local", "generic") or shape.kind == "varying":
        return _vectors(kind, _gathered(e, access, base, kind))
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
    if not streams(e):
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
