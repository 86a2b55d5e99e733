"""A region's function: the loop over vectors, the blocks in order, and how lanes move between them."""

from nnkit.ptx.cfg import Block, destinations
from nnkit.ptx.ir import Guard, Immediate, Instruction, PtxError
from nnkit.vm import atomics, calls, memory, plain, warp
from nnkit.vm.analysis import Region
from nnkit.vm.emitter import POISON, Emitter, ident
from nnkit.vm.builder import BITS
from nnkit.vm.layout import ENDED, Context, Fault, Worker
from nnkit.vm.table import find


def emit_region(e: Emitter, region: Region) -> str:
    """The definition of `@regionN(ctx, wk, first, last)`: 0 if all is well, 1 if a fault ended it."""
    e.region = region
    text = e.text
    text.lines = []
    e.entry_text = []
    e.constants = {}
    e.slots = set()
    blocks = [e.analysis.blocks[number] for number in region.order]
    _start(e, region)
    for block in blocks:
        _emit_block(e, region, block)
    _finish(e)
    slots = _slots(e, region)
    return "\n".join(
        [
            f"define internal i32 @region{region.number}(ptr %ctx, ptr %wk, i64 %first, i64 %last) {{",
            "entry:",
            *slots,
            *e.entry_text,
            "br label %vectors",
            *text.lines,
            "}",
        ]
    )


def _slots(e: Emitter, region: Region) -> list[str]:
    """Stack slots for every register that the region's blocks touch."""
    lines = [
        "%vector = alloca i64",
        "%alive = alloca i" + str(e.width),
        "%fuel = alloca i64",
    ]
    for number in sorted(region.masked):
        lines.append(f"%mask{number} = alloca i{e.width}")
    for name in sorted(e.analysis.function.registers):
        kind, short = e.kind(name), ident(name)
        for form, type_ in (("s", kind), ("v", e.all.type(kind)), ("f", "i1")):
            if f"%{form}.{short}" in e.slots:
                lines.append(f"%{form}.{short} = alloca {type_}")
    fuel = f"getelementptr i64, ptr %wk, i64 {int(Worker.FUEL)}"
    lines += [
        "store i64 %first, ptr %vector",
        f"%fuel.home = {fuel}",
        "%fuel.start = load i64, ptr %fuel.home",
        "store i64 %fuel.start, ptr %fuel",
    ]
    return lines


def _start(e: Emitter, region: Region) -> None:
    """The head of the loop over vectors: who is alive, and the registers that were saved."""
    text = e.text
    text.place("vectors")
    vector = text.op("load i64, ptr %vector")
    full = (1 << e.width) - 1
    if e.analysis.full:
        text.line(f"store i{e.width} {_mask_literal(e.width, full)}, ptr %alive")
    else:
        table = e.worker_field(Worker.ALIVE, "ptr")
        place = text.op(f"getelementptr i64, ptr {table}, i64 {vector}")
        if region.number == 0:
            alive = _initially_alive(e, vector)
        else:
            alive = e.one.resize("i64", text.op(f"load i64, ptr {place}"), f"i{e.width}")
        text.line(f"store i{e.width} {alive}, ptr %alive")
    for number in sorted(region.masked):
        text.line(f"store i{e.width} {_mask_literal(e.width, 0)}, ptr %mask{number}")
    live = e.analysis.live[region.entry]
    for name in sorted(live):
        if name in e.frame_offsets and region.number:
            _restore(e, name, vector)
        else:
            _initialise(e, name)
    # A register that only some path writes before it is read still needs a defined value.
    for name in sorted(_maybe_unwritten(e, region) - live):
        _initialise(e, name)
    text.jump(f"block{region.entry}")


def _mask_literal(width: int, full: int) -> str:
    if width == 1:
        return "true" if full else "false"
    return str(full - (1 << width) if full >> (width - 1) else full)


def _maybe_unwritten(e: Emitter, region: Region) -> set[str]:
    """Blended registers are read at the blend, whether the program reads them there or not."""
    return {
        name
        for number in region.order
        if region.pending[number]
        for item in e.analysis.blocks[number].instructions
        for name in destinations(item)
        if e.analysis.must_blend(region, number, name)
    }


def _initially_alive(e: Emitter, vector: str) -> str:
    """All lanes, except beyond the block's last thread."""
    threads, width = e.launch.threads, e.width
    tail = threads % width
    if not tail:
        return _mask_literal(width, (1 << width) - 1)
    last = e.one.compare("eq", "i64", vector, str(e.launch.vectors - 1))
    return e.one.select(last, f"i{width}", str((1 << tail) - 1), _mask_literal(width, (1 << width) - 1))


def _frame_place(e: Emitter, vector: str, offset: int) -> str:
    frames = e.worker_field(Worker.FRAMES, "ptr")
    start = e.text.op(f"mul i64 {vector}, {e.frame_size}")
    at = e.text.op(f"add i64 {start}, {offset}")
    return e.text.op(f"getelementptr i8, ptr {frames}, i64 {at}")


def _restore(e: Emitter, name: str, vector: str) -> None:
    for slot, kind, offset in e.frame_slots(name):
        place = _frame_place(e, vector, offset)
        align = ", align 64" if offset % 64 == 0 and kind[0] == "<" and e.width * BITS[e.kind(name)] >= 512 else ""
        value = e.text.op(f"load {kind}, ptr {place}{align}")
        e.text.line(f"store {kind} {value}, ptr {slot}")


def _save(e: Emitter, names: set[str]) -> None:
    vector = e.text.op("load i64, ptr %vector")
    for name in sorted(names & e.frame_offsets.keys()):
        for slot, kind, offset in e.frame_slots(name):
            value = e.text.op(f"load {kind}, ptr {slot}")
            place = _frame_place(e, vector, offset)
            align = (
                ", align 64" if offset % 64 == 0 and kind[0] == "<" and e.width * BITS[e.kind(name)] >= 512 else ""
            )
            e.text.line(f"store {kind} {value}, ptr {place}{align}")


def _initialise(e: Emitter, name: str) -> None:
    """Registers that nobody wrote: zero, or poison if the user wants to see them."""
    kind, shape = e.kind(name), e.analysis.shape(name)
    value = POISON[BITS[kind]] if e.poison else 0

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
    vector = text.op("load i64, ptr %vector")
    following = text.op(f"add i64 {vector}, 1")
    text.line(f"store i64 {following}, ptr %vector")
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


def _emit_block(e: Emitter, region: Region, block: Block) -> None:
    text = e.text
    number = block.number
    e.block, e.now, e.changed, e.guards = block, {}, set(), {}
    text.place(f"block{number}")
    if region.pending[number]:
        e.mask = text.op(f"load i{e.width}, ptr %mask{number}")
    else:
        e.mask = "" if e.analysis.full else _alive(e)
    if number in region.masked:
        text.line(f"store i{e.width} {_mask_literal(e.width, 0)}, ptr %mask{number}")
    if e.analysis.leaves(region, number):
        _go_on_in(e, region, block.number)
        return
    memory.plan(e, block)
    for item in _votes_collected(e, region, block):
        calls.collect(e, item)
    for item in block.instructions:
        try:
            emit_instruction(e, item)
        except PtxError as error:
            raise error if error.line else PtxError(f"{item.name}: {error}", item.line) from error
    _leave(e, region, block)


def _votes_collected(e: Emitter, region: Region, block: Block) -> list[Instruction]:
    """The barriers with a vote that lead to the region's first block: there the result is read."""
    if block.number != region.entry or not region.number:
        return []
    lasts = [b.last for b in e.analysis.blocks if b.ending == "barrier" and b.targets[0] == block.number]
    return [last for last in lasts if last is not None and "red" in last.modifiers]


def _alive(e: Emitter) -> str:
    return e.text.op(f"load i{e.width}, ptr %alive")


def emit_instruction(e: Emitter, item: Instruction) -> None:
    """One instruction in the current block."""
    operation = find(item)
    if operation is not None:
        plain.emit_pure(e, item, operation)
        return
    for family in (memory.HANDLERS, atomics.HANDLERS, calls.HANDLERS, warp.HANDLERS):
        handler = family.get(item.opcode)
        if handler is not None:
            handler(e, item)
            return
    raise PtxError(f"instruction {item.name} is not supported by the virtual device", item.line)


def _leave(e: Emitter, region: Region, block: Block) -> None:
    """The block's ending: branch on scalars, or hand the lanes to the blocks they wait for."""
    e.flush()
    if block.ending == "barrier":
        calls.arrive(e, block)
        _barrier(e, region, block)
    elif block.ending == "exit":
        _exit(e, region)
    elif block.ending == "jump":
        _go(e, region, [(block.targets[0], _current(e))])
    elif block.ending == "branch":
        _branch(e, region, block)
    else:
        _switch(e, region, block)


def _current(e: Emitter) -> str:
    return e.mask or _mask_literal(e.width, (1 << e.width) - 1)


def _exit(e: Emitter, region: Region) -> None:
    pending = region.pending[e.block.number]
    if not pending:
        _end(e)
        return
    alive = _alive(e)
    gone = e.one.binary("xor", f"i{e.width}", _current(e), _mask_literal(e.width, (1 << e.width) - 1))
    e.text.line(f"store i{e.width} {e.one.binary('and', f'i{e.width}', alive, gone)}, ptr %alive")
    _chain(e, region, sorted(pending, key=region.place.__getitem__), certain=None)


def _end(e: Emitter) -> None:
    """Nobody is left in this vector."""
    text = e.text
    vector = text.op("load i64, ptr %vector")
    resume = e.worker_field(Worker.RESUME, "ptr")
    place = text.op(f"getelementptr i32, ptr {resume}, i64 {vector}")
    text.line(f"store i32 {ENDED}, ptr {place}")
    text.jump("next.vector")


def _barrier(e: Emitter, region: Region, block: Block) -> None:
    """Save what is needed behind the barrier and stop; every lane that lives must be here."""
    text = e.text
    assert block.last is not None
    if region.pending[block.number]:
        together = text.label("together")
        apart = text.label("apart")
        same = e.one.compare("eq", f"i{e.width}", _current(e), _alive(e))
        text.likely(same, together, apart)
        text.place(apart)
        site = e.site(block.last, "barrier")
        e.fault(Fault.DIVERGENT_BARRIER, site, e.mask64())
        text.place(together)
    vector = _suspend(e, region, block.targets[0])
    waits = e.worker_field(Worker.BARRIER, "ptr")
    place = text.op(f"getelementptr i64, ptr {waits}, i64 {vector}")
    text.line(f"store i64 {calls.barrier_word(e, block.last)}, ptr {place}")
    # A loop around a barrier never jumps backwards inside a region.
    _burn(e, sum(len(e.analysis.blocks[n].instructions) + 1 for n in region.order))
    text.jump("next.vector")


def _suspend(e: Emitter, region: Region, entry: int) -> str:
    """Save what the region that begins at a block needs, and say that the vector goes on there."""
    text = e.text
    target = next(r for r in e.analysis.regions if r.entry == entry and r.number)
    live = e.analysis.live[entry]
    # What this region received and never wrote is still in the frame.
    same = e.analysis.live[region.entry] - e.analysis.written_in(region) if region.number else set()
    _save(e, live - same)
    vector = text.op("load i64, ptr %vector")
    if not e.analysis.full:
        table = e.worker_field(Worker.ALIVE, "ptr")
        place = text.op(f"getelementptr i64, ptr {table}, i64 {vector}")
        text.line(f"store i64 {e.one.resize(f'i{e.width}', _alive(e), 'i64')}, ptr {place}")
    resume = e.worker_field(Worker.RESUME, "ptr")
    place = text.op(f"getelementptr i32, ptr {resume}, i64 {vector}")
    text.line(f"store i32 {target.number}, ptr {place}")
    return vector


def _go_on_in(e: Emitter, region: Region, entry: int) -> None:
    """Hand the whole vector to another region, without waiting."""
    if region.pending[entry]:
        raise PtxError("a region was split where lanes wait")
    _suspend(e, region, entry)
    e.text.jump("next.vector")


def _branch(e: Emitter, region: Region, block: Block) -> None:
    assert block.last is not None
    guard = block.last.guard
    assert isinstance(guard, Guard)
    taken, other = block.targets
    value = e.read(guard.register.name)
    if taken == other:
        _go(e, region, [(taken, _current(e))])
        return
    if value.shape.kind == "uniform":
        yes, no = e.text.label("yes"), e.text.label("no")
        then, otherwise = (no, yes) if guard.negated else (yes, no)
        e.text.branch(value.scalar, then, otherwise)
        for label, target in ((yes, taken), (no, other)):
            e.text.place(label)
            _go(e, region, [(target, _current(e))])
        return
    kind = f"i{e.width}"
    here = _current(e)
    true = e.one.binary("and", kind, e.as_mask(e.vector(value)), here)
    false = e.one.binary("xor", kind, true, here)
    masks = [(taken, false if guard.negated else true), (other, true if guard.negated else false)]
    _go(e, region, masks)


def _switch(e: Emitter, region: Region, block: Block) -> None:
    """brx.idx: the index picks a label of the table."""
    assert block.last is not None
    index = e.operand(block.last.operands[0], "u32")
    if index.shape.kind == "uniform":
        labels = {target: e.text.label("case") for target in block.targets}
        nowhere = e.text.label("nowhere")
        cases = " ".join(f"i32 {i}, label %{labels[target]}" for i, target in enumerate(block.targets))
        e.text.line(f"switch i32 {index.scalar}, label %{nowhere} [ {cases} ]")
        e.text.place(nowhere)
        e.fault(Fault.TRAP, e.site(block.last, "a jump outside its table"), e.mask64())
        for target, label in labels.items():
            e.text.place(label)
            _go(e, region, [(target, _current(e))])
        return
    vector, here = e.vector(index), _current(e)
    masks = []
    for i, target in enumerate(block.targets):
        chosen = e.as_mask(e.all.compare("eq", "i32", vector, e.all.constant("i32", i)))
        masks.append((target, e.one.binary("and", f"i{e.width}", chosen, here)))
    _go(e, region, masks)


def _go(e: Emitter, region: Region, masks: list[tuple[int, str]]) -> None:
    """Hand lanes to their targets and run whichever waiting block comes first in the order."""
    pending = region.pending[e.block.number]
    targets = list(dict.fromkeys(target for target, _ in masks))
    for target, mask in masks:
        if target in region.masked:
            old = e.text.op(f"load i{e.width}, ptr %mask{target}")
            e.text.line(f"store i{e.width} {e.one.binary('or', f'i{e.width}', old, mask)}, ptr %mask{target}")
    waiting = sorted(pending | set(targets), key=region.place.__getitem__)
    certain = targets[0] if len(targets) == 1 else None
    _chain(e, region, waiting, certain)


def _chain(e: Emitter, region: Region, waiting: list[int], certain: int | None) -> None:
    """Jump to the first block that has lanes; at least one has, unless all have left the kernel."""
    for index, target in enumerate(waiting):
        is_last = index == len(waiting) - 1 and (certain is not None or e.block.ending != "exit")
        if target == certain or is_last:
            _jump(e, region, target)
            return
        mask = e.text.op(f"load i{e.width}, ptr %mask{target}")
        some = e.one.compare("ne", f"i{e.width}", mask, _mask_literal(e.width, 0))
        here, on = e.text.label("go"), e.text.label("on")
        e.text.branch(some, here, on)
        e.text.place(here)
        _jump(e, region, target)
        e.text.place(on)
    _end(e)


def _jump(e: Emitter, region: Region, target: int) -> None:
    """Backwards costs fuel, so that an endless loop can be stopped."""
    if region.place[target] > region.place[e.block.number]:
        e.text.jump(f"block{target}")
        return
    first, last = region.place[target], region.place[e.block.number]
    cost = sum(len(e.analysis.blocks[n].instructions) + 1 for n in region.order[first : last + 1])
    _burn(e, cost)
    e.text.jump(f"block{target}")


def _burn(e: Emitter, cost: int) -> None:
    """Use fuel: where none is left, ask for more, or stop."""
    fuel = e.text.op("load i64, ptr %fuel")
    left = e.text.op(f"sub i64 {fuel}, {cost}")
    e.text.line(f"store i64 {left}, ptr %fuel")
    some = e.text.op(f"icmp sgt i64 {left}, 0")
    empty, filled, stopped = e.text.label("empty"), e.text.label("filled"), e.text.label("stopped")
    go = e.text.label("fuelled")
    e.text.likely(some, go, empty)
    e.text.place(empty)
    refill = e.context_field(Context.REFILL, "ptr")
    more = e.text.op(f"call i64 {refill}(ptr %ctx, ptr %wk)")
    e.text.branch(e.text.op(f"icmp sgt i64 {more}, 0"), filled, stopped)
    e.text.place(filled)
    e.text.line(f"store i64 {more}, ptr %fuel")
    e.text.jump(go)
    e.text.place(stopped)
    item = e.block.last or (e.block.instructions[-1] if e.block.instructions else _nowhere())
    e.fault(Fault.STOPPED, e.site(item, "stopped"), e.mask64())
    e.text.place(go)


def _nowhere() -> Instruction:
    return Instruction("bra", (), (Immediate(0),))
