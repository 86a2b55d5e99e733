"""Everything that leaves the straight line of one warp: barriers, fences, traps, and calls into Python."""

from nnkit.ptx.ir import SIZES, Immediate, Instruction, Operand, PtxError, Register, Symbol, Vector
from nnkit.vm.analysis.blocks import Block
from nnkit.vm.analysis.shapes import VARYING, Shape
from nnkit.vm.emit.emitter import Emitter
from nnkit.vm.emit.masks import active_lanes, every_lane, lane_count
from nnkit.vm.emit.operands import value_of
from nnkit.vm.emit.values import Value
from nnkit.vm.forms.sections import COMMUNICATION, CONTROL, NONE, OTHER
from nnkit.vm.forms.table import effect, ending, is_vote
from nnkit.vm.instructions import warp
from nnkit.vm.text.layout import BARRIERS, Context, Fault, Worker

KNOWN_CALLS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "vprintf": ((4,), (8, 8)),
    "__assertfail": ((), (8, 8, 4, 8, 8)),
}
"""What Python answers: the bytes of each result and of each argument."""

for _who in ("u32<16", "u32<16 u32:32"):
    ending(COMMUNICATION, _who, r"bar(\.cta)?\.sync", r"barrier(\.cta)?\.sync\.aligned", way="barrier")
    ending(COMMUNICATION, _who, r"barrier(\.cta)?\.sync", way="barrier", aligned=False)
    for _kind, _vote in (("u32", "popc"), ("pred", "(and|or)")):
        _operands, _what = f">{_kind} {_who} pred", rf"{_vote}\.{_kind}"
        _aligned = (rf"bar(\.cta)?\.red(\.aligned)?\.{_what}", rf"barrier(\.cta)?\.red\.aligned\.{_what}")
        ending(COMMUNICATION, _operands, *_aligned, way="barrier", lanes="uniform")
        ending(
            COMMUNICATION,
            _operands,
            rf"barrier(\.cta)?\.red\.{_what}",
            way="barrier",
            lanes="uniform",
            aligned=False,
        )
ending(CONTROL, "", r"exit", way="exit")
ending(CONTROL, "", r"ret", way="return")
ending(CONTROL, "label", r"bra(\.uni)?", way="jump")
ending(CONTROL, "u32 label", r"brx\.idx(\.uni)?", way="switch")
# Where code is made a call is none any more: the function's body stands there. What it hands over is
# compared with what the function has, where that is put in its place.
ending(CONTROL, ">any any any", r"call(\.uni)?", way="call", lanes="varying")


def refuse_unknown(item: Instruction, registers: dict[str, str]) -> None:
    """Raise PtxError for a call of a function that neither the module nor the machine has.

    And for one with other results or arguments than the function's own: they are read from a place that the
    caller fills. A result that is not asked for is none.
    """
    if item.opcode != "extcall":
        return
    name, results, arguments = item.operands
    assert isinstance(name, Symbol)
    if name.name.startswith("_Z"):
        raise PtxError(
            f"function {name.name} is declared alone: its body must be in the same source", item.line
        )
    if name.name not in KNOWN_CALLS:
        raise PtxError(f"function {name.name} is not supported by the virtual device", item.line)
    sizes = [
        tuple(SIZES[registers[part.name]] for part in operand.parts if isinstance(part, Register))
        for operand in (results, arguments)
        if isinstance(operand, Vector)
    ]
    gives, takes = KNOWN_CALLS[name.name]
    if sizes[0] not in (gives, ()) or sizes[1] != takes:
        wants = f"{len(takes)} arguments of {', '.join(map(str, takes))} bytes"
        raise PtxError(f"function {name.name} is called with other arguments than its {wants}", item.line)


def barrier_word(e: Emitter, item: Instruction) -> str:
    """What the vector waits for, as the scheduler reads it: number, and expected threads above it."""
    number, count = _barrier_operands(item)
    word = _scalar(e, item, number)
    word = e.one.binary("and", "i64", word, str(BARRIERS - 1))
    if count is None:
        return word
    expected = _scalar(e, item, count)
    return e.one.binary("or", "i64", word, e.one.binary("shl", "i64", expected, "8"))


def _barrier_operands(item: Instruction) -> tuple[Operand, Operand | None]:
    operands = list(item.operands)
    if is_vote(item):
        operands = operands[1:-1]
    number = operands[0] if operands else Immediate(0)
    return number, operands[1] if len(operands) > 1 else None


def _scalar(e: Emitter, item: Instruction, operand: Operand) -> str:
    value = value_of(e, operand, "u32")
    if value.shape.kind != "uniform":
        first = warp._first(e)
        lane = e.text.op(f"extractelement {e.all.type('i32')} {e.vector(value)}, i64 {first}")
        return e.one.cast("zext", "i32", lane, "i64")
    return e.one.cast("zext", "i32", value.scalar, "i64")


def arrive(e: Emitter, block: Block) -> None:
    """bar.red: the lanes' votes, added to the barrier's before it opens."""
    item = block.last
    if item is None or not is_vote(item):
        return
    number, _ = _barrier_operands(item)
    predicate = item.operands[-1]
    value = value_of(e, predicate, "pred")
    here = active_lanes(e)
    yes = e.one.binary("and", f"i{e.width}", e.as_mask(e.vector(value)), here)
    word = e.one.binary(
        "or", "i64", lane_count(e, yes), e.one.binary("shl", "i64", lane_count(e, here), "32")
    )
    place = _vote_place(e, item, number, Worker.VOTES)
    old = e.text.op(f"load i64, ptr {place}")
    e.text.line(f"store i64 {e.one.binary('add', 'i64', old, word)}, ptr {place}")


def _vote_place(e: Emitter, item: Instruction, number: Operand, field: int) -> str:
    index = e.one.binary("and", "i64", _scalar(e, item, number), str(BARRIERS - 1))
    index = e.one.binary("add", "i64", index, str(int(field)))
    return e.text.op(f"getelementptr i64, ptr %wk, i64 {index}")


def collect(e: Emitter, item: Instruction) -> None:
    """bar.red, behind the barrier: the result of the vote."""
    number, _ = _barrier_operands(item)
    word = e.text.op(f"load i64, ptr {_vote_place(e, item, number, Worker.RESULTS)}")
    yes = e.one.cast("trunc", "i64", word, "i32")
    total = e.one.cast("trunc", "i64", e.one.binary("lshr", "i64", word, "32"), "i32")
    target = item.operands[0]
    if "popc" in item.modifiers:
        e.assign(target, Value(Shape("uniform"), "i32", scalar=yes))
    elif "and" in item.modifiers:
        e.assign(target, Value(Shape("uniform"), "i1", scalar=e.one.compare("eq", "i32", yes, total)))
    else:
        e.assign(target, Value(Shape("uniform"), "i1", scalar=e.one.compare("ne", "i32", yes, "0")))


@effect(COMMUNICATION, "u32<16 u32:32", r"bar|barrier(\.cta)?\.arrive", r"barrier(\.cta)?\.arrive\.aligned")
def _arrive(e: Emitter, item: Instruction) -> None:
    """An arrival that does not wait."""
    here = active_lanes(e)
    place = _vote_place(e, item, item.operands[0], Worker.ARRIVED)
    old = e.text.op(f"load i64, ptr {place}")
    # Whole warps count, as for those that wait.
    e.text.line(f"store i64 {e.one.binary('add', 'i64', old, _whole(e, here))}, ptr {place}")


def _whole(e: Emitter, here: str) -> str:
    return str(e.width) if here == every_lane(e.width) else lane_count(e, here)


_ORDER = r"(\.(sc|acq_rel|acquire|release))?"


@effect(COMMUNICATION, "", r"membar\.cta", rf"fence{_ORDER}\.cta", fence="block")
@effect(COMMUNICATION, "", r"membar\.(gl|sys)", rf"fence{_ORDER}\.(cluster|gpu|sys)", fence="device")
@effect(COMMUNICATION, "", r"fence\.proxy\.\w+(\.\w+)*")
def _fence(e: Emitter, item: Instruction) -> None:
    e.text.line("fence seq_cst")


@effect(OTHER, "", r"trap", stops=True)
@effect(OTHER, "", r"brkpt")
def _trap(e: Emitter, item: Instruction) -> None:
    e.fault(Fault.TRAP, e.site(item, item.opcode), e.mask64())
    e.text.place(e.text.label("after"))


@effect(OTHER, "#u32<16", r"pmevent")
@effect(OTHER, "#u32", r"pmevent\.mask")
@effect(OTHER, "u32", r"nanosleep\.u32")
def _nothing(e: Emitter, item: Instruction) -> None:
    """A pause or a profiler's mark changes no result."""


@effect(NONE, "any >any any", r"extcall", lanes="varying", stops=True)
def _call(e: Emitter, item: Instruction) -> None:
    """Hand every lane's arguments to Python: `call(ctx, wk, site, mask, arguments)`; results replace them."""
    name, results, arguments = item.operands
    assert isinstance(name, Symbol)
    assert isinstance(results, Vector)
    assert isinstance(arguments, Vector)
    count = max(len(arguments.parts), 1)
    area = _area(e, count)
    for index, argument in enumerate(arguments.parts):
        assert isinstance(argument, Register)
        kind = e.kind(argument.name)
        vector = e.all.resize(kind, e.vector(e.read(argument.name)), "i64")
        place = e.text.op(f"getelementptr i64, ptr {area}, i64 {index * e.width}")
        e.text.line(f"store {e.all.type('i64')} {vector}, ptr {place}, align 8")
    e.store_worker(Worker.FAULT_VECTOR, e.text.op("load i64, ptr %vector"))
    function = e.context_field(Context.CALL, "ptr")
    site = e.site(item, name.name)
    failed = e.text.op(f"call i64 {function}(ptr %ctx, ptr %wk, i64 {site}, i64 {e.mask64()}, ptr {area})")
    good, bad = e.text.label("returned"), e.text.label("failed")
    e.text.likely(e.one.compare("eq", "i64", failed, "0"), good, bad)
    e.text.place(bad)
    e.fault(Fault.CALL, site, e.mask64())
    e.text.place(good)
    for result in results.parts:
        assert isinstance(result, Register)
        kind = e.kind(result.name)
        loaded = e.text.op(f"load {e.all.type('i64')}, ptr {area}, align 8")
        e.assign(result, Value(VARYING, kind, vector=e.all.resize("i64", loaded, kind)))


def _area(e: Emitter, count: int) -> str:
    name = f"%area{count}"
    if name not in e.function.constants:
        e.function.constants[name] = name
        e.function.entry.insert(0, f"{name} = alloca [{count * e.width} x i64], align 64")
    return name
