"""Operations between the lanes of a warp: shuffles, votes, matches, reductions.

A kernel that has one runs on vectors of 32 lanes, a vector being a warp then. Every lane that the
instruction's member mask names must be here or have left the kernel; if one is elsewhere, the hardware would
wait or do something undefined, so the launch ends with a report.
"""

from nnkit.ptx.ir import Instruction, Operand, Pair, PtxError, Register
from nnkit.vm.analysis.shapes import VARYING, Shape
from nnkit.vm.emit import strands
from nnkit.vm.emit.emitter import Emitter
from nnkit.vm.emit.masks import active_lanes, living_lanes, waiting_lanes
from nnkit.vm.emit.operands import value_of
from nnkit.vm.emit.values import Value
from nnkit.vm.forms.sections import COMMUNICATION, MOVEMENT
from nnkit.vm.forms.table import effect
from nnkit.vm.instructions import absent
from nnkit.vm.instructions.warp_wait import wait
from nnkit.vm.text.layout import Fault

WIDTH = 32
DIFFERENT_MASKS = "with different masks in one warp"


def _members(e: Emitter, item: Instruction, operand: Operand | None) -> tuple[str, str]:
    """The member mask that all lanes name, or "", and the vector of masks if lanes may name different ones.

    Faults where a member that lives is not here.
    """
    if operand is None:
        return active_lanes(e), ""
    value = value_of(e, operand, "u32")
    if value.shape.kind == "uniform":
        if value.shape.constant != -1:
            _check_own(e, item, e.one.binary("xor", "i32", value.scalar, "-1"))
        if (
            e.kernel.analysis.may_wait(e.function.region, e.block.code.number)
            and item is e.block.code.instructions[0]
        ):
            wait(e, item, value.scalar, missing_lanes(e))
        elif e.function.region.pending[e.block.code.number] or e.kernel.analysis.parts:
            _check_together(e, item, "", value.scalar)
        return value.scalar, ""
    vector = e.vector(value)
    own = e.all.binary("and", "i32", vector, _bits(e))
    _check_own(e, item, e.as_mask(e.all.compare("eq", "i32", own, e.all.constant("i32", 0))))
    _check_together(e, item, vector, "")
    return "", vector


def _check_own(e: Emitter, item: Instruction, outside: str) -> None:
    """Faults where a lane is outside of the mask that it names itself."""
    bad = e.one.binary("and", "i32", outside, active_lanes(e))
    inside, strange = e.text.label("inside"), e.text.label("strange")
    e.text.likely(e.one.compare("eq", "i32", bad, "0"), inside, strange)
    e.text.place(strange)
    e.fault(Fault.OWN_MASK, e.site(item, item.name), e.one.resize("i32", bad, "i64"))
    e.text.place(inside)


def _bits(e: Emitter) -> str:
    """Every lane's own bit."""
    return "<" + ", ".join(f"i32 {1 << lane}" for lane in range(e.width)) + ">"


def _present(e: Emitter, mask: str, vector: str) -> str:
    """Every lane's members that are here, as a vector."""
    given = vector or e.splat("i32", mask)
    return e.all.binary("and", "i32", given, e.splat("i32", active_lanes(e)))


def _first(e: Emitter) -> str:
    return e.lowest(e.mask64()) if e.block.mask else "0"


def _check_together(e: Emitter, item: Instruction, vector: str, mask: str) -> None:
    """Lanes with different masks form different groups: each lane's own members must be here."""
    missing = missing_lanes(e)
    if vector:
        absent_ones = e.all.binary("and", "i32", vector, e.splat("i32", missing))
        some = e.all.compare("ne", "i32", absent_ones, e.all.constant("i32", 0))
        bad = e.as_mask(e.all.binary("and", "i1", some, e.lanes()))
    else:
        bad = e.one.binary("and", "i32", mask, missing)
    fine, apart = e.text.label("fine"), e.text.label("apart")
    e.text.likely(e.one.compare("eq", "i32", bad, "0"), fine, apart)
    e.text.place(apart)
    e.fault(Fault.DIVERGENT_WARP, e.site(item, item.name), e.mask64())
    e.text.place(fine)


def missing_lanes(e: Emitter) -> str:
    """The lanes that are not here and have something left to do."""
    alive = living_lanes(e)
    missing = e.one.binary("and", "i32", alive, e.one.binary("xor", "i32", active_lanes(e), "-1"))
    for number in sorted(e.function.region.waiting(e.block.code.number)):
        # Lanes that have nothing left to do count as gone.
        if e.kernel.analysis.is_way_out(number):
            leaving = waiting_lanes(e, number)
            missing = e.one.binary("and", "i32", missing, e.one.binary("xor", "i32", leaving, "-1"))
    # Who has parted waits at a barrier.
    return e.one.binary("or", "i32", missing, strands.elsewhere(e)) if e.kernel.analysis.parts else missing


def permuted(e: Emitter, vector: str, lanes: str) -> str:
    """vector[lanes[l]] for each lane l, all in 0..31, through memory: LLVM has no general permutation."""
    full = e.all.type("i32")
    scratch = _scratch(e)
    e.text.line(f"store {full} {vector}, ptr {scratch}, align 64")
    wide = e.all.resize("i32", lanes, "i64")
    places = e.text.op(f"getelementptr i32, ptr {scratch}, {e.all.type('i64')} {wide}")
    pointers = e.all.type("ptr")
    suffix = f"{e.all.mangled('i32')}.v{e.width}p0"
    e.text.declarations.add(
        f"declare {full} @llvm.masked.gather.{suffix}({pointers}, i32, {e.all.type('i1')}, {full})"
    )
    return e.text.op(
        f"call {full} @llvm.masked.gather.{suffix}({pointers} {places}, i32 4, "
        f"{e.all.type('i1')} {e.all.constant('i1', 1)}, {full} zeroinitializer)"
    )


def _scratch(e: Emitter) -> str:
    if "scratch" not in e.function.constants:
        e.function.constants["scratch"] = "%scratch"
        e.function.entry.insert(0, f"%scratch = alloca {e.all.type('i64')}, align 64")
    return "%scratch"


def _lane_numbers(e: Emitter) -> str:
    return "<" + ", ".join(f"i32 {lane}" for lane in range(e.width)) + ">"


@effect(
    MOVEMENT,
    ">b32| b32 b32 b32 b32",
    r"shfl\.sync\.(up|down|bfly|idx)\.b32",
    lanes="varying",
    meaning="exchange",
    warp_level=True,
)
# Without .sync: for targets before compute capability 7.0.
@effect(
    MOVEMENT,
    ">b32| b32 b32 b32",
    r"shfl\.(up|down|bfly|idx)\.b32",
    lanes="varying",
    meaning="exchange",
    warp_level=True,
)
def _shfl(e: Emitter, item: Instruction) -> None:
    """PTX's rule: the lane stays inside the segment that the clamp describes, else it keeps its own value."""
    target, source, by, clamp, *members = item.operands
    mask, masks = _members(e, item, members[0] if members else None)
    value = e.vector(value_of(e, source, "b32"))
    mode = next(m for m in item.modifiers if m in ("up", "down", "bfly", "idx"))
    distance, bounds = value_of(e, by, "u32"), value_of(e, clamp, "u32")
    b, c = distance.shape.constant, bounds.shape.constant
    if b is not None and c is not None:
        known = [_source_lane(mode, lane, b, c) for lane in range(WIDTH)]
        picks = ", ".join(f"i32 {lane}" for lane, _ in known)
        lanes, inside = f"<{picks}>", "<" + ", ".join(f"i1 {int(within)}" for _, within in known) + ">"
        full = e.all.type("i32")
        found = e.text.op(f"shufflevector {full} {value}, {full} poison, {full} {lanes}")
    else:
        lanes, inside = _source_lanes(e, mode, e.vector(distance), e.vector(bounds))
        found = permuted(e, value, lanes)
    absent.shuffled(e, item, lanes, mask, masks)
    first, second = (target.first, target.second) if isinstance(target, Pair) else (target, None)
    e.assign(first, Value(VARYING, "i32", vector=found))
    if second is not None:
        e.assign(second, Value(VARYING, "i1", vector=inside))


def _source_lane(mode: str, lane: int, b: int, c: int) -> tuple[int, bool]:
    """The lane that a lane reads, and whether it lies in the segment."""
    b, segment, bound = b & 31, c >> 8 & 31, c & 31
    low = lane & segment
    high = low | bound & ~segment
    j = {"up": lane - b, "down": lane + b, "bfly": lane ^ b, "idx": low | b & ~segment}[mode]
    inside = j >= high if mode == "up" else j <= high
    return (j & 31 if inside else lane), inside


def _source_lanes(e: Emitter, mode: str, b: str, c: str) -> tuple[str, str]:
    """The same as vectors."""
    x, i32 = e.all, "i32"
    lane = _lane_numbers(e)
    b = x.binary("and", i32, b, x.constant(i32, 31))
    segment = x.binary("and", i32, x.binary("lshr", i32, c, x.constant(i32, 8)), x.constant(i32, 31))
    bound = x.binary("and", i32, c, x.constant(i32, 31))
    inverse = x.binary("xor", i32, segment, x.constant(i32, 31))
    low = x.binary("and", i32, lane, segment)
    high = x.binary("or", i32, low, x.binary("and", i32, bound, inverse))
    if mode == "up":
        j = x.binary("sub", i32, lane, b)
        inside = x.compare("sge", i32, j, high)
    else:
        if mode == "down":
            j = x.binary("add", i32, lane, b)
        elif mode == "bfly":
            j = x.binary("xor", i32, lane, b)
        else:
            j = x.binary("or", i32, low, x.binary("and", i32, b, inverse))
        inside = x.compare("sle", i32, j, high)
    return x.binary("and", i32, x.select(inside, i32, j, lane), x.constant(i32, 31)), inside


def _ballot(e: Emitter, predicate: Operand) -> str:
    """The active lanes for which a predicate holds, as 32 bits."""
    value = value_of(e, predicate, "pred")
    bits = e.as_mask(e.vector(value))
    return e.one.binary("and", "i32", bits, active_lanes(e))


@effect(COMMUNICATION, ">pred pred b32", r"vote\.sync\.(all|any|uni)\.pred", lanes="members", warp_level=True)
@effect(COMMUNICATION, ">b32 pred b32", r"vote\.sync\.ballot\.b32", lanes="members", warp_level=True)
@effect(COMMUNICATION, ">pred pred", r"vote\.(all|any|uni)\.pred", lanes="uniform", warp_level=True)
@effect(COMMUNICATION, ">b32 pred", r"vote\.ballot\.b32", lanes="uniform", warp_level=True)
def _vote(e: Emitter, item: Instruction) -> None:
    target, predicate, *members = item.operands
    mask, masks = _members(e, item, members[0] if members else None)
    if masks and isinstance(target, Register) and e.kernel.analysis.shape(target.name).kind == "uniform":
        # The register has one value for the whole warp, so the masks must be one too.
        mask, masks = _single(e, item, masks), ""
    if masks:
        here = _present(e, mask, masks)
        votes = e.all.binary("and", "i32", e.splat("i32", _ballot(e, predicate)), here)
        kind, lanes, zero = VARYING, e.all, e.all.constant("i32", 0)
    else:
        here = e.one.binary("and", "i32", active_lanes(e), mask)
        votes = e.one.binary("and", "i32", _ballot(e, predicate), here)
        kind, lanes, zero = Shape("uniform"), e.one, "0"
    if "ballot" in item.modifiers:
        e.assign(target, _value(kind, "i32", votes))
        return
    none = lanes.compare("eq", "i32", votes, zero)
    every = lanes.compare("eq", "i32", votes, here)
    if "all" in item.modifiers:
        found = every
    elif "any" in item.modifiers:
        found = lanes.binary("xor", "i1", none, lanes.constant("i1", 1))
    else:
        found = lanes.binary("or", "i1", none, every)
    e.assign(target, _value(kind, "i1", found))


def _value(shape: Shape, kind: str, name: str) -> Value:
    return Value(shape, kind, vector=name) if shape is VARYING else Value(shape, kind, scalar=name)


def _single(e: Emitter, item: Instruction, masks: str) -> str:
    """The mask of the first lane here; faults if another names a different one."""
    mask = e.text.op(f"extractelement {e.all.type('i32')} {masks}, i64 {_first(e)}")
    differs = e.all.compare("ne", "i32", masks, e.splat("i32", mask))
    bad = e.as_mask(e.all.binary("and", "i1", differs, e.lanes()))
    same, other = e.text.label("same"), e.text.label("other")
    e.text.likely(e.one.compare("eq", "i32", bad, "0"), same, other)
    e.text.place(other)
    e.fault(Fault.DIVERGENT_WARP, e.site(item, f"{item.name} {DIFFERENT_MASKS}"), e.mask64())
    e.text.place(same)
    return mask


@effect(COMMUNICATION, ">b32", r"activemask\.b32", lanes="uniform", warp_level=True)
def _activemask(e: Emitter, item: Instruction) -> None:
    e.assign(
        item.operands[0],
        Value(Shape("uniform"), "i32", scalar=e.one.binary("or", "i32", active_lanes(e), "0")),
    )


@effect(COMMUNICATION, ">b32|_ b32", r"elect\.sync", lanes="varying", warp_level=True)
def _elect(e: Emitter, item: Instruction) -> None:
    """The lowest member is elected."""
    target, members = item.operands
    here = _present(e, *_members(e, item, members))
    leader = e.all.call("cttz", "i32", here, tail="i1 false")
    if not isinstance(target, Pair):
        raise PtxError("elect.sync has two results", item.line)
    e.assign(target.first, Value(VARYING, "i32", vector=leader))
    chosen = e.all.compare("eq", "i32", _lane_numbers(e), leader)
    e.assign(target.second, Value(VARYING, "i1", vector=chosen))


@effect(COMMUNICATION, ">b32| t b32", r"match\.all\.sync\.b(32|64)", lanes="varying", warp_level=True)
@effect(COMMUNICATION, ">b32 t b32", r"match\.any\.sync\.b(32|64)", lanes="varying", warp_level=True)
def _match(e: Emitter, item: Instruction) -> None:
    """any: the members that hold this lane's value; all: every member if all hold the same, else none."""
    target, source, members = item.operands
    here = _present(e, *_members(e, item, members))
    kind = f"i{item.type[1:]}"
    value = e.vector(value_of(e, source, item.type))
    result = e.all.constant("i32", 0)
    for lane in range(e.width):
        one = e.text.op(f"extractelement {e.all.type(kind)} {value}, i64 {lane}")
        same = e.all.compare("eq", kind, value, e.splat(kind, one))
        bit = e.all.constant("i32", 1 << lane)
        result = e.all.binary("or", "i32", result, e.all.select(same, "i32", bit, e.all.constant("i32", 0)))
    result = e.all.binary("and", "i32", result, here)
    first, second = (target.first, target.second) if isinstance(target, Pair) else (target, None)
    if "all" in item.modifiers:
        every = e.all.compare("eq", "i32", result, here)
        result = e.all.select(every, "i32", result, e.all.constant("i32", 0))
        if second is not None:
            e.assign(second, Value(VARYING, "i1", vector=every))
    e.assign(first, Value(VARYING, "i32", vector=result))


_NEUTRAL = {
    "add": 0,
    "or": 0,
    "xor": 0,
    "and": -1,
    "umin": -1,
    "umax": 0,
    "smin": 0x7FFFFFFF,
    "smax": -0x80000000,
}


@effect(COMMUNICATION, ">t t b32", r"redux\.sync\.(add|min|max)\.[us]32", lanes="varying", warp_level=True)
@effect(COMMUNICATION, ">t t b32", r"redux\.sync\.(and|or|xor)\.b32", lanes="varying", warp_level=True)
def _redux(e: Emitter, item: Instruction) -> None:
    """One reduction over the members; one a lane where lanes may name different members."""
    target, source, members = item.operands
    mask, masks = _members(e, item, members)
    operation = item.modifiers[1]
    if operation in ("min", "max"):
        operation = f"{item.type[0]}{operation}"
    value = e.vector(value_of(e, source, item.type))
    if not masks:
        here = e.one.binary("and", "i32", mask, active_lanes(e))
        result = e.splat("i32", _reduced(e, operation, value, here))
    else:
        every, result = _present(e, mask, masks), e.all.constant("i32", 0)
        for lane in range(e.width):
            here = e.text.op(f"extractelement {e.all.type('i32')} {every}, i64 {lane}")
            total = _reduced(e, operation, value, here)
            result = e.text.op(f"insertelement {e.all.type('i32')} {result}, i32 {total}, i64 {lane}")
    e.assign(target, Value(VARYING, "i32", vector=result))


def _reduced(e: Emitter, operation: str, value: str, mask: str) -> str:
    here = e.text.op(f"bitcast i32 {mask} to {e.all.type('i1')}")
    given = e.all.select(here, "i32", value, e.all.constant("i32", _NEUTRAL[operation]))
    name = f"@llvm.vector.reduce.{operation}.{e.all.mangled('i32')}"
    e.text.declarations.add(f"declare i32 {name}({e.all.type('i32')})")
    return e.text.op(f"call i32 {name}({e.all.type('i32')} {given})")


@effect(COMMUNICATION, "b32", r"bar|barrier\.warp\.sync", warp_level=True, warp_barrier=True)
def _warp_sync(e: Emitter, item: Instruction) -> None:
    """Lanes run in step: who is here waits for those members alone that went another way."""
    _members(e, item, item.operands[0])
