"""A region's function: the loop over vectors, the blocks in order, and how lanes move between them."""

from nnkit.ptx.ir import Instruction, PtxError
from nnkit.vm.analysis.blocks import Block
from nnkit.vm.analysis.regions import Region
from nnkit.vm.code.flow import go_on_in, leave
from nnkit.vm.code.searches import emit_returns, emit_searches
from nnkit.vm.emit import strands
from nnkit.vm.emit.emitter import POISON, Emitter
from nnkit.vm.emit.frames import restore, this_strand
from nnkit.vm.emit.masks import (
    every_lane,
    living_lanes,
    no_lane,
    set_living,
    set_waiting,
    waiting_in_memory,
    waiting_lanes,
)
from nnkit.vm.forms.form import Effect, MemoryAccess, Pure
from nnkit.vm.forms.registers import destinations, sources
from nnkit.vm.forms.table import form_of
from nnkit.vm.instructions import absent, calls, plain, warp_wait
from nnkit.vm.memory.access import plan
from nnkit.vm.memory.lowering import lower
from nnkit.vm.text.builder import BITS, ident
from nnkit.vm.text.layout import Worker


def emit_region(e: Emitter, region: Region) -> str:
    """The definition of `@regionN(ctx, wk, first, last)`: 0 if all is well, 1 if a fault ended it."""
    e.begin_function(region)
    _start(e)
    for number in region.order:
        _emit_block(e, e.kernel.analysis.blocks[number])
    emit_searches(e)
    emit_returns(e)
    _finish(e)
    head = f"define internal i32 @region{region.number}(ptr %ctx, ptr %wk, i64 %first, i64 %last) {{"
    entry = ["entry:", *_slots(e), *e.function.entry, "br label %vectors"]
    return waiting_in_memory(e, [head, *entry, *e.text.lines, "}"])


def _slots(e: Emitter) -> list[str]:
    """Stack slots for every register that the region's blocks touch."""
    lines = [
        *warp_wait.slots(e),
        "%vector = alloca i64",
        *strands.slots(e),
        "%alive = alloca i" + str(e.width),
        "%fuel = alloca i64",
    ]
    for number in sorted(e.function.region.masked):
        lines.append(f"%mask{number} = alloca i{e.width}")
    for name, form in sorted(e.function.slots, key=lambda slot: (slot[0], "svfu".index(slot[1]))):
        type_ = {"s": e.kind(name), "v": e.all.type(e.kind(name)), "f": "i1", "u": "i32"}[form]
        lines.append(f"%{form}.{ident(name)} = alloca {type_}")
    fuel = f"getelementptr i64, ptr %wk, i64 {int(Worker.FUEL)}"
    lines += [
        f"store i64 %first, ptr {e.kernel.strand}",
        f"%fuel.home = {fuel}",
        "%fuel.start = load i64, ptr %fuel.home",
        "store i64 %fuel.start, ptr %fuel",
    ]
    return lines


def _start(e: Emitter) -> None:
    """The head of the loop over vectors: who is alive, and the registers that were saved."""
    text, region = e.text, e.function.region
    text.place("vectors")
    strand = this_strand(e)
    vector = strands.begin(e, strand)
    if e.kernel.analysis.full:
        set_living(e, every_lane(e.width))
    else:
        table = e.worker_field(Worker.ALIVE, "ptr")
        place = text.op(f"getelementptr i64, ptr {table}, i64 {strand}")
        if region.number == 0:
            alive = _initially_alive(e, vector)
        else:
            alive = e.one.resize("i64", text.op(f"load i64, ptr {place}"), f"i{e.width}")
        set_living(e, alive)
    for number in sorted(region.masked):
        set_waiting(e, number, no_lane(e.width))
    absent.begin(e)
    warp_wait.begin(e)
    live = e.kernel.analysis.live[region.entry]
    if region.number:
        # What the region does not touch stays in the frame.
        live &= e.kernel.analysis.touched_in(region)
    for name in sorted(live):
        if name in e.kernel.frame.offsets and region.number:
            restore(e, name, strand)
        else:
            _initialise(e, name)
    # A register that only some path writes before it is read still needs a defined value.
    for name in sorted(_maybe_unwritten(e) - live):
        _initialise(e, name)
    if region.entry in region.masked:
        # All lanes come in here, also where others may wait elsewhere on later turns of a loop.
        set_waiting(e, region.entry, living_lanes(e))
    text.jump(f"block{region.entry}")


def _maybe_unwritten(e: Emitter) -> set[str]:
    """Blended registers are read at the blend, whether the program reads them there or not."""
    region = e.function.region
    return {
        name
        for number in region.order
        if region.pending[number]
        for item in e.kernel.analysis.blocks[number].instructions
        for name in destinations(item)
        if e.kernel.analysis.must_blend(region, number, name)
    }


def _initially_alive(e: Emitter, vector: str) -> str:
    """All lanes, except beyond the block's last thread."""
    threads, width = e.kernel.launch.threads, e.width
    tail = threads % width
    if not tail:
        return every_lane(width)
    last = e.one.compare("eq", "i64", vector, str(e.kernel.launch.vectors - 1))
    return e.one.select(last, f"i{width}", str((1 << tail) - 1), every_lane(width))


def _initialise(e: Emitter, name: str) -> None:
    """Registers that nobody wrote: zero, or poison if the user wants to see them."""
    kind, shape = e.kind(name), e.kernel.analysis.shape(name)
    value = POISON[BITS[kind]] if e.kernel.launch.options.poison else 0

    def constant(wide: bool) -> str:
        lanes = e.all if wide else e.one
        if kind in ("float", "double"):
            word = lanes.constant(f"i{BITS[kind]}", value)
            return lanes.cast("bitcast", f"i{BITS[kind]}", word, kind)
        return lanes.constant(kind, value)

    if shape.kind != "varying":
        e.text.line(f"store {kind} {constant(False)}, ptr {e.slot('s', name)}")
    if shape.kind in ("varying", "likely"):
        e.text.line(f"store {e.all.type(kind)} {constant(True)}, ptr {e.slot('v', name)}")
    if shape.kind == "likely":
        e.text.line(f"store i1 false, ptr {e.slot('f', name)}")


def _finish(e: Emitter) -> None:
    """The ways out: next vector, all done, fault."""
    text = e.text
    text.place("next.vector")
    following = text.op(f"add i64 {this_strand(e)}, 1")
    text.line(f"store i64 {following}, ptr {e.kernel.strand}")
    more = text.op(f"icmp slt i64 {following}, %last")
    text.branch(more, "vectors", "finished")
    text.place("finished")
    left = text.op("load i64, ptr %fuel")
    text.line(f"store i64 {left}, ptr %fuel.home")
    text.line("ret i32 0")
    text.place("fault")
    vector = text.op("load i64, ptr %vector")
    e.store_worker(Worker.FAULT_VECTOR, vector)
    text.line("ret i32 1")


def _emit_block(e: Emitter, block: Block) -> None:
    text, region, number = e.text, e.function.region, block.number
    text.place(f"block{number}")
    if region.pending[number]:
        mask = waiting_lanes(e, number)
    else:
        mask = "" if e.kernel.analysis.full else living_lanes(e)
    e.begin_block(block, mask)
    if number in region.masked:
        set_waiting(e, number, no_lane(e.width))
    warp_wait.enter(e)
    if e.kernel.analysis.leaves(region, number):
        go_on_in(e, block.number)
        return
    plan(e, block)
    for item in _votes_collected(e):
        calls.collect(e, item)
    for item in block.instructions:
        absent.follow(e, item)
        try:
            emit_instruction(e, item)
        except PtxError as error:
            raise error if error.line else PtxError(f"{item.name}: {error}", item.line) from error
    if block.last is not None:
        absent.check(e, block.last, sources(block.last))
    leave(e)


def _votes_collected(e: Emitter) -> list[Instruction]:
    """The barriers with a vote that lead to the region's first block: there the result is read."""
    region, number = e.function.region, e.block.code.number
    entered = number == region.entry and region.number
    return e.kernel.analysis.votes.get(number, []) if entered else []


def emit_instruction(e: Emitter, item: Instruction) -> None:
    """One instruction in the current block."""
    form = form_of(item)
    if isinstance(form, Pure) and form.count == len(item.operands):
        plain.emit_pure(e, item, form)
    elif isinstance(form, MemoryAccess):
        lower(e, item, form.describe(item))
    elif isinstance(form, Effect):
        form.emit(e, item)
    else:
        raise PtxError(f"instruction {item.name} is not supported by the virtual device", item.line)
