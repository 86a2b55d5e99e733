"""One kernel's regions as LLVM functions: registers, blocks, masks and the places where warps stop.

A region function runs the vectors [first, last) of a block one after another from the same place. Registers
live in stack slots that LLVM turns into values; inside a block their current values are kept here, so that a
slot is read and written at most once a block. Registers that outlive a barrier are saved in the vector's
frame.
"""

from nnkit.ptx.ir import (
    Instruction,
    Operand,
    Pair,
    PtxError,
    Register,
)
from nnkit.vm.analysis.blocks import Block
from nnkit.vm.analysis.regions import Region
from nnkit.vm.analysis.shapes import VARYING, Shape
from nnkit.vm.emit.state import BlockState, FunctionState, KernelState
from nnkit.vm.emit.values import Site, Value
from nnkit.vm.forms.registers import sources
from nnkit.vm.text.builder import (
    BITS,
    Lanes,
    Text,
    ident,
    is_literal,
    register_type,
)
from nnkit.vm.text.layout import Fault, Worker

POISON = {1: 1, 16: 0xFFFF, 32: 0xFFFFFFFF, 64: (1 << 64) - 1, 128: (1 << 128) - 1}


class Emitter:
    """Writes the text of a kernel, one function and in it one block after another."""

    kernel: KernelState
    function: FunctionState
    block: BlockState

    def __init__(self, kernel: KernelState, has_avx512: bool):
        self.kernel = kernel
        self.width = kernel.launch.width
        self.text = Text(has_avx512)
        self.one = Lanes(self.text, 0)
        self.all = Lanes(self.text, self.width)

    def begin_function(self, region: Region) -> None:
        """What is written from here on is a function of its own, for a region."""
        self.text.lines = []
        self.function = FunctionState(region)

    def begin_block(self, code: Block, mask: str = "") -> None:
        """Write a block's code from here on; the mask is "" where every lane is active for certain."""
        self.block = BlockState(code, mask)

    # -- registers ------------------------------------------------------------------------------------------

    def kind(self, register: str) -> str:
        """The LLVM type of a register."""
        return register_type(self.kernel.analysis.function.registers[register])

    def slot(self, form: str, name: str) -> str:
        """The stack slot of a register's scalar ("s"), vector ("v"), flag ("f") or suspect lanes ("u")."""
        self.function.slots.add((name, form))
        return f"%{form}.{ident(name)}"

    def read(self, name: str) -> Value:
        """A register's value in the current block."""
        value = self.block.values.get(name)
        if value is None:
            shape = self.kernel.analysis.shape(name)
            kind = self.kind(name)
            value = Value(shape, kind)
            if shape.kind != "varying":
                value.scalar = self.text.op(f"load {kind}, ptr {self.slot('s', name)}")
            if shape.kind in ("varying", "likely"):
                value.vector = self.text.op(f"load {self.all.type(kind)}, ptr {self.slot('v', name)}")
            if shape.kind == "likely":
                value.flag = self.text.op(f"load i1, ptr {self.slot('f', name)}")
            self.block.values[name] = value
        return value

    def vector(self, value: Value) -> str:
        """All lanes of a value."""
        if value.vector:
            return value.vector
        made = self.splat(value.kind, value.scalar)
        if value.shape.pattern:
            steps = ", ".join(f"{value.kind} {step}" for step in value.shape.pattern)
            made = self.all.binary("add", value.kind, made, f"<{steps}>")
        value.vector = made
        return made

    def splat(self, kind: str, scalar: str) -> str:
        """A scalar in every lane."""
        full = self.all.type(kind)
        if is_literal(scalar):
            return f"splat ({kind} {scalar})"
        first = self.text.op(f"insertelement {full} poison, {kind} {scalar}, i64 0")
        zeros = f"<{self.width} x i32> zeroinitializer"
        return self.text.op(f"shufflevector {full} {first}, {full} poison, {zeros}")

    def write(self, name: str, value: Value) -> None:
        """Assign a register in the current block; blending happens at the block's end."""
        self.block.values[name] = value
        self.block.changed.add(name)

    def flush(self) -> None:
        """Store what this block has changed and somebody may still read."""
        analysis, region, block = self.kernel.analysis, self.function.region, self.block
        code, live = block.code, analysis.live
        needed = analysis.needed(region, region.pending[code.number])
        for target in code.targets:
            needed |= live.bits[target]
        read = set() if code.last is None else set(sources(code.last))
        for name in sorted(name for name in block.changed if name in read or live.bit.get(name, 0) & needed):
            value = block.values[name]
            shape, kind = analysis.shape(name), self.kind(name)
            if region.pending[code.number] and block.mask and analysis.must_blend(region, code.number, name):
                full = self.all.type(kind)
                old = self.text.op(f"load {full}, ptr {self.slot('v', name)}")
                value = Value(
                    VARYING, kind, vector=self.all.select(self.lanes(), kind, self.vector(value), old)
                )
            if shape.kind != "varying":
                self.text.line(f"store {kind} {value.scalar}, ptr {self.slot('s', name)}")
            if shape.kind in ("varying", "likely"):
                self.text.line(
                    f"store {self.all.type(kind)} {self.vector(value)}, ptr {self.slot('v', name)}"
                )
            if shape.kind == "likely":
                self.text.line(f"store i1 {value.flag or 'true'}, ptr {self.slot('f', name)}")

    @staticmethod
    def uniform() -> Shape:
        """The shape of a scalar of which nothing is known."""
        return Shape("uniform")

    def as_kind(self, value: Value, kind: str) -> Value:
        """The same bits as another type; a wider register is cut off."""
        if value.kind == kind:
            return value
        if BITS[kind] > BITS[value.kind]:
            raise PtxError(f"a register of {BITS[value.kind]} bits where {BITS[kind]} are expected")
        if BITS[kind] == BITS[value.kind]:
            if value.shape.pattern and kind in ("float", "double"):
                # Steps from lane to lane are those of integers.
                value = Value(VARYING, value.kind, vector=self.vector(value))
            scalar = value.scalar and self.one.cast("bitcast", value.kind, value.scalar, kind)
            vector = value.vector and self.all.cast("bitcast", value.kind, value.vector, kind)
            return Value(value.shape, kind, scalar, vector, value.flag)
        if value.shape.kind == "uniform":
            return Value(self.uniform(), kind, scalar=self._cut(self.one, value.kind, value.scalar, kind))
        return Value(VARYING, kind, vector=self._cut(self.all, value.kind, self.vector(value), kind))

    @staticmethod
    def _cut(lanes: Lanes, source: str, given: str, kind: str) -> str:
        """The low bits of a value."""
        word, part = f"i{BITS[source]}", f"i{BITS[kind]}"
        low = lanes.cast("trunc", word, lanes.cast("bitcast", source, given, word), part)
        return lanes.cast("bitcast", part, low, kind)

    def assign(self, target: Operand | None, value: Value, sign: bool = False) -> None:
        """Write a result to a register: same bits, or extended to the register's width."""
        if isinstance(target, Pair):
            target = target.first
        if target is None:
            return
        if not isinstance(target, Register):
            raise PtxError(f"a result cannot go to {target}")
        kind = self.kind(target.name)
        if BITS[kind] > BITS[value.kind]:
            word = f"i{BITS[value.kind]}"
            value = self.as_kind(value, word)
            scalar = value.scalar and self.one.resize(word, value.scalar, f"i{BITS[kind]}", sign)
            vector = "" if scalar and value.shape.kind == "uniform" else self.vector(value)
            vector = vector and self.all.resize(word, vector, f"i{BITS[kind]}", sign)
            shape = self.uniform() if value.shape.kind == "uniform" else VARYING
            value = Value(shape, f"i{BITS[kind]}", scalar if shape.kind == "uniform" else "", vector)
        self.write(target.name, self.as_kind(value, kind))

    # -- lanes ----------------------------------------------------------------------------------------------

    def lanes(self) -> str:
        """The current mask as a vector of i1."""
        if not self.block.mask:
            return self.all.constant("i1", 1)
        return self.text.op(f"bitcast i{self.width} {self.block.mask} to {self.all.type('i1')}")

    def as_mask(self, vector: str) -> str:
        """A vector of i1 as an integer."""
        return self.text.op(f"bitcast {self.all.type('i1')} {vector} to i{self.width}")

    def mask64(self) -> str:
        """The current mask in 64 bits."""
        if not self.block.mask:
            return str((1 << self.width) - 1)
        return self.one.resize(f"i{self.width}", self.block.mask, "i64")

    # -- fields of the records ------------------------------------------------------------------------------

    def worker_field(self, index: int, kind: str = "i64") -> str:
        """A word of the worker, read once at the start of the region."""
        return self._field("wk", index, kind)

    def context_field(self, index: int, kind: str = "i64") -> str:
        """A word of the launch's context, read once at the start of the region."""
        return self._field("ctx", index, kind)

    def _field(self, record: str, index: int, kind: str) -> str:
        key = f"{record}{index}"
        name = self.function.constants.get(key)
        if name is None:
            name = self.function.constants[key] = f"%{key}"
            self.function.entry.append(f"{name}.ptr = getelementptr i64, ptr %{record}, i64 {int(index)}")
            self.function.entry.append(f"{name} = load {kind}, ptr {name}.ptr")
        return name

    def store_worker(self, index: int, value: str) -> None:
        """Write a word of the worker."""
        place = self.text.op(f"getelementptr i64, ptr %wk, i64 {int(index)}")
        self.text.line(f"store i64 {value}, ptr {place}")

    # -- faults ---------------------------------------------------------------------------------------------

    def site(self, item: Instruction, what: str, space: str = "", size: int = 0) -> int:
        """Note a place that can go wrong; returns its number."""
        self.kernel.sites.append(Site(what, space, size, item.line, item.location))
        return len(self.kernel.sites) - 1

    def fault(self, kind: Fault, site: int | str, mask: str) -> None:
        """End the launch here: store what happened and leave the region."""
        self.store_worker(Worker.FAULT, str(int(kind)))
        self.store_worker(Worker.FAULT_SITE, str(site))
        self.store_worker(Worker.FAULT_LANE, self.lowest(mask))
        self.text.jump("fault")

    def lowest(self, mask: str) -> str:
        """The first lane of a mask of 64 bits that has one."""
        self.text.declarations.add("declare i64 @llvm.cttz.i64(i64, i1)")
        return self.text.op(f"call i64 @llvm.cttz.i64(i64 {mask}, i1 false)")

    # -- lanes that wait ------------------------------------------------------------------------------------

    def search(self, name: str, waiting: int) -> None:
        """Look for lanes in code that blocks share, from the first of the waiting blocks on."""
        first = (waiting & -waiting).bit_length() - 1
        self.function.searches[name].add(first)
        self.text.jump(f"{name}{first}")
