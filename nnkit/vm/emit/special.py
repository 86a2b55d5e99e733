"""Special registers: thread and block indices and their kin."""

from nnkit.ptx.ir import PtxError
from nnkit.vm.analysis import shapes
from nnkit.vm.analysis.geometry import special as shape_of
from nnkit.vm.analysis.shapes import VARYING, Shape
from nnkit.vm.emit.emitter import Emitter
from nnkit.vm.emit.values import Value
from nnkit.vm.text.layout import Context, Worker

_FIELDS = {
    "%ctaid.x": ("wk", Worker.BLOCK_X),
    "%ctaid.y": ("wk", Worker.BLOCK_Y),
    "%ctaid.z": ("wk", Worker.BLOCK_Z),
    "%nctaid.x": ("ctx", Context.GRID_X),
    "%nctaid.y": ("ctx", Context.GRID_Y),
    "%nctaid.z": ("ctx", Context.GRID_Z),
    "%dynamic_smem_size": ("ctx", Context.DYNAMIC_SHARED_BYTES),
    "%total_smem_size": ("ctx", Context.SHARED_BYTES),
}

_CONSTANTS = {"%nsmid": 1, "%smid": 0, "%gridid": 0, "%nwarpid": 32, "%is_explicit_cluster": 0}


def emit_special(e: Emitter, name: str) -> Value:
    """The value of a special register, in 32 bits (64 for clocks)."""
    shape = shape_of(name, e.kernel.launch)
    if shape.constant is not None:
        return Value(shape, "i32", scalar=str(shape.constant))
    if name.startswith("%tid"):
        return _thread(e, name[-1], shape)
    if name in _FIELDS:
        record, index = _FIELDS[name]
        word = e.worker_field(index) if record == "wk" else e.context_field(index)
        return Value(shape, "i32", scalar=e.one.cast("trunc", "i64", word, "i32"))
    if name in _CONSTANTS:
        return Value(shapes.constant(_CONSTANTS[name], 32), "i32", scalar=str(_CONSTANTS[name]))
    if name in ("%laneid", "%warpid") or name.startswith("%lanemask"):
        return _lane(e, name, shape)
    if name.startswith(("%clock", "%globaltimer")):
        return _clock(e, name)
    if name.startswith("%envreg"):
        # The one use of them that there is.
        raise PtxError(f"a grid-wide barrier ({name}) is not supported by the virtual device")
    raise PtxError(f"special register {name} is not supported by the virtual device")


def _vector_number(e: Emitter) -> str:
    return e.text.op("load i64, ptr %vector")


def _thread(e: Emitter, axis: str, shape: Shape) -> Value:
    """From the number of the vector's first thread; from a table where lanes do not form a pattern."""
    vector = e.one.cast("trunc", "i64", _vector_number(e), "i32")
    first = e.one.binary("mul", "i32", vector, str(e.width))
    if shape.kind == "varying":
        steps = ", ".join(f"i32 {lane}" for lane in range(e.width))
        threads = e.all.binary("add", "i32", e.splat("i32", first), f"<{steps}>")
        return Value(VARYING, "i32", vector=_coordinate(e, True, axis, threads))
    return Value(shape, "i32", scalar=_coordinate(e, False, axis, first))


def _coordinate(e: Emitter, wide: bool, axis: str, thread: str) -> str:
    lanes = e.all if wide else e.one
    x, y, z = e.kernel.launch.block
    if axis == "x":
        return thread if y == z == 1 else lanes.binary("urem", "i32", thread, lanes.constant("i32", x))
    if axis == "y":
        row = lanes.binary("udiv", "i32", thread, lanes.constant("i32", x))
        return row if z == 1 else lanes.binary("urem", "i32", row, lanes.constant("i32", y))
    return lanes.binary("udiv", "i32", thread, lanes.constant("i32", x * y))


def _lane(e: Emitter, name: str, shape: Shape) -> Value:
    vector = e.one.cast("trunc", "i64", _vector_number(e), "i32")
    first = e.one.binary("mul", "i32", vector, str(e.width))
    if name == "%warpid":
        return Value(shape, "i32", scalar=e.one.binary("udiv", "i32", first, "32"))
    base = e.one.binary("and", "i32", first, "31")
    lane = Value(shapes.made(32, 0, 31, 1, tuple(i % 32 for i in range(e.width))), "i32", scalar=base)
    if name == "%laneid":
        return Value(shape, "i32", scalar=base, vector="" if shape.is_scalar else e.vector(lane))
    bit = e.all.binary("shl", "i32", e.all.constant("i32", 1), e.vector(lane))
    below = e.all.binary("sub", "i32", bit, e.all.constant("i32", 1))
    upto = e.all.binary("or", "i32", bit, below)
    flip = e.all.constant("i32", -1)
    found = {
        "eq": lambda: bit,
        "lt": lambda: below,
        "le": lambda: upto,
        "gt": lambda: e.all.binary("xor", "i32", upto, flip),
        "ge": lambda: e.all.binary("xor", "i32", below, flip),
    }[name[-2:]]()
    return Value(VARYING, "i32", vector=found)


def _clock(e: Emitter, name: str) -> Value:
    """The processor's cycle counter; the nanosecond timer is the same counter."""
    e.text.declarations.add("declare i64 @llvm.readcyclecounter()")
    now = e.text.op("call i64 @llvm.readcyclecounter()")
    if name in ("%clock64", "%globaltimer"):
        return Value(Shape("uniform"), "i64", scalar=now)
    if name.endswith("_hi"):
        now = e.one.binary("lshr", "i64", now, "32")
    return Value(Shape("uniform"), "i32", scalar=e.one.cast("trunc", "i64", now, "i32"))
