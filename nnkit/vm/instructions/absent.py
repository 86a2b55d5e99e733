"""Values that a shuffle took from a lane that is not there: it never was, has left, or is not in the mask.

CUDA leaves such a value undefined, and code may well fetch it and drop it: `if (lane + d < n) sum += got;`.
So each register that can hold one has a mask beside its value, of the lanes in which it does. What is made of
it has the mask too, a selection drops it, and only where such a value decides something (it is stored, is
branched on, is an address, ...) the launch ends. Kernels whose warps are whole, with the constant mask of all
lanes, pay nothing.
"""

from nnkit.ptx.ir import Immediate, Instruction, Negated, Operand, Pair, Register
from nnkit.vm.analysis.kernel import Analysis
from nnkit.vm.emit.emitter import Emitter
from nnkit.vm.emit.masks import active_lanes
from nnkit.vm.emit.operands import value_of
from nnkit.vm.forms import table
from nnkit.vm.forms.registers import destinations, names_in, sources
from nnkit.vm.memory.access import access_of
from nnkit.vm.text.layout import Fault, Worker

ALL_LANES = -1
ALL = str(ALL_LANES)


def suspects(analysis: Analysis) -> frozenset[str]:
    """The registers that may hold such a value somewhere."""
    partial = {n for region in analysis.regions for n in region.order if region.pending[n]}
    found: set[str] = set()
    flows: list[tuple[list[str], list[str]]] = []
    for block in analysis.blocks:
        whole = analysis.full and block.number not in partial
        for item in block.instructions:
            if table.meaning_of(item) == "exchange":
                written, given = _ends(item)
                flows.append((given, written))
                members = item.operands[4] if len(item.operands) > 4 else None
                if not whole or (members and analysis.operand(members, "u32").constant != ALL_LANES):
                    found.update(written)
            elif table.is_pure(item):
                flows.append((sources(item), destinations(item)))
    before = -1
    while found and before < len(found):
        before = len(found)
        for read, written in flows:
            if not found.isdisjoint(read):
                found.update(written)
    return frozenset(found)


def _ends(item: Instruction) -> tuple[list[str], list[str]]:
    """The register that a shuffle writes a value to, and the one that it fetches from, if there are any."""
    target, source = item.operands[:2]
    if isinstance(target, Pair):
        target = target.first or Immediate(0)
    names = [[end.name] if isinstance(end, Register) else [] for end in (target, source)]
    return names[0], names[1]


def begin(e: Emitter) -> None:
    """No lane holds such a value, until a register's mask is fetched from before a barrier."""
    # What a region behind a barrier does not touch stays in the frame.
    here = e.kernel.analysis.touched_in(e.function.region) if e.function.region.number else e.kernel.suspects
    for name in sorted(e.kernel.suspects & here):
        e.text.line(f"store i32 0, ptr {e.slot('u', name)}")


def follow(e: Emitter, item: Instruction) -> None:
    """Before an instruction other than a shuffle: hand masks on, or end the launch where a value counts."""
    if not e.kernel.suspects or table.meaning_of(item) == "exchange":
        return
    pure = table.is_pure(item)
    if not pure:
        check(e, item, _that_count(item))
    written = [name for name in destinations(item) if name in e.kernel.suspects]
    if written:
        mask = _made(e, item) if pure else "0"
        for name in written:
            _set(e, name, mask)


def check(e: Emitter, item: Instruction, names: list[str]) -> None:
    """End the launch if one of the registers holds such a value in an active lane."""
    masks = [_get(e, name) for name in dict.fromkeys(names) if name in e.kernel.suspects]
    if not masks:
        return
    bad = masks[0]
    for mask in masks[1:]:
        bad = e.one.binary("or", "i32", bad, mask)
    bad = e.one.binary("and", "i32", bad, active_lanes(e))
    known, unknown = e.text.label("known"), e.text.label("unknown")
    e.text.likely(e.one.compare("eq", "i32", bad, "0"), known, unknown)
    e.text.place(unknown)
    e.fault(Fault.ABSENT_LANE, e.site(item, item.name), e.one.resize("i32", bad, "i64"))
    e.text.place(known)


def shuffled(e: Emitter, item: Instruction, lanes: str, mask: str, masks: str) -> None:
    """Note which lanes fetch from one that is not there, and hand on what the fetched values are.

    `lanes` is the vector of the lanes read; `mask` or the vector `masks` names the members.
    """
    written, given = _ends(item)
    check(e, item, [name for operand in item.operands[2:] for name in names_in((operand,))])
    for name in set(destinations(item)).difference(written):
        if name in e.kernel.suspects:
            _set(e, name, "0")
    if not e.kernel.suspects.intersection(written):
        return
    target = written[0]
    before = _get(e, given[0]) if e.kernel.suspects.intersection(given) else "0"
    text, active = e.text, active_lanes(e)
    if masks:
        _set(e, target, _fetched(e, item, lanes, masks, before))
        return
    here = e.one.binary("and", "i32", mask, active)
    start, some, join = text.label("start"), text.label("some"), text.label("shuffled")
    text.jump(start)
    text.place(start)
    whole = e.one.compare("eq", "i32", here, ALL)
    if before != "0":
        whole = e.one.binary("and", "i1", whole, e.one.compare("eq", "i32", before, "0"))
    text.likely(whole, join, some)
    text.place(some)
    found = _fetched(e, item, lanes, e.splat("i32", mask), before)
    end = text.label("end")
    text.jump(end)
    text.place(end)
    text.jump(join)
    text.place(join)
    _set(e, target, text.op(f"phi i32 [ 0, %{start} ], [ {found}, %{end} ]"))


def _fetched(e: Emitter, item: Instruction, lanes: str, masks: str, before: str) -> str:
    """The lanes whose value is undefined behind a shuffle; who read from nobody is noted for the report."""
    x, active = e.all, active_lanes(e)
    here = x.binary("and", "i32", masks, e.splat("i32", active))
    present = x.binary("and", "i32", x.binary("lshr", "i32", here, lanes), x.constant("i32", 1))
    absent = e.as_mask(x.compare("eq", "i32", present, x.constant("i32", 0)))
    absent = e.one.binary("and", "i32", absent, active)
    fine, nobody = e.text.label("fine"), e.text.label("nobody")
    e.text.likely(e.one.compare("eq", "i32", absent, "0"), fine, nobody)
    e.text.place(nobody)
    reader = e.one.call("cttz", "i64", e.one.resize("i32", absent, "i64"), tail="i1 true")
    lane = e.text.op(f"extractelement {x.type('i32')} {lanes}, i64 {reader}")
    members = e.text.op(f"extractelement {x.type('i32')} {masks}, i64 {reader}")
    member = e.one.binary("and", "i32", e.one.binary("lshr", "i32", members, lane), "1")
    word = e.one.binary("or", "i32", lane, e.one.binary("shl", "i32", member, "5"))
    e.store_worker(Worker.ABSENT_SITE, str(e.site(item, item.name)))
    e.store_worker(Worker.ABSENT_READER, reader)
    e.store_worker(Worker.ABSENT_LANE, e.one.resize("i32", word, "i64"))
    e.text.jump(fine)
    e.text.place(fine)
    if before == "0":
        return absent
    moved = x.binary(
        "and", "i32", x.binary("lshr", "i32", e.splat("i32", before), lanes), x.constant("i32", 1)
    )
    carried = e.as_mask(x.compare("ne", "i32", moved, x.constant("i32", 0)))
    return e.one.binary("or", "i32", absent, carried)


def _that_count(item: Instruction) -> list[str]:
    """The registers whose values decide something: not what a thread keeps in its own memory."""
    access = access_of(item)
    if access is not None and access.space == "local" and access.kind == "store":
        return sources(item)[: isinstance(access.base, Register)]
    return sources(item)


def _made(e: Emitter, item: Instruction) -> str:
    """The lanes in which a pure operation's result is undefined."""
    meaning = table.meaning_of(item)
    if meaning == "choice":
        _, first, second, chooser = item.operands
        chosen = _bits(e, chooser)
        a = e.one.binary("and", "i32", _of(e, first), chosen)
        b = e.one.binary("and", "i32", _of(e, second), e.one.binary("xor", "i32", chosen, ALL))
        return _either(e, _either(e, a, b), _of(e, chooser))
    if meaning in ("and", "or") and item.type == "pred":
        # One side may settle it, whatever the other would say.
        first, second = item.operands[1:]
        a, b = _of(e, first), _of(e, second)
        settles = [_bits(e, operand) for operand in (first, second)]
        if meaning == "or":
            settles = [e.one.binary("xor", "i32", bits, ALL) for bits in settles]
        left = e.one.binary("and", "i32", a, _either(e, b, settles[1]))
        right = e.one.binary("and", "i32", b, _either(e, a, settles[0]))
        return _either(e, left, right)
    mask = "0"
    for name in sources(item):
        if name in e.kernel.suspects:
            mask = _either(e, mask, _get(e, name))
    return mask


def _either(e: Emitter, a: str, b: str) -> str:
    if "0" in (a, b):
        return b if a == "0" else a
    return e.one.binary("or", "i32", a, b)


def _bits(e: Emitter, predicate: Operand) -> str:
    return e.as_mask(e.vector(value_of(e, predicate, "pred")))


def _of(e: Emitter, operand: Operand) -> str:
    register = operand.register if isinstance(operand, Negated) else operand
    known = isinstance(register, Register) and register.name in e.kernel.suspects
    return _get(e, register.name) if known and isinstance(register, Register) else "0"


def _get(e: Emitter, name: str) -> str:
    return e.text.op(f"load i32, ptr {e.slot('u', name)}")


def _set(e: Emitter, name: str, mask: str) -> None:
    """For the active lanes; others that wait elsewhere keep what they have."""
    if e.function.region.pending[e.block.code.number]:
        here = active_lanes(e)
        kept = e.one.binary("and", "i32", _get(e, name), e.one.binary("xor", "i32", here, ALL))
        mask = e.one.binary("or", "i32", kept, e.one.binary("and", "i32", mask, here))
    e.text.line(f"store i32 {mask}, ptr {e.slot('u', name)}")
