"""Host addresses of an access: of lane 0 for those that follow a pattern, of every lane for all others."""

from nnkit.ptx.ir import Register, Symbol
from nnkit.vm.analysis.shapes import VARYING
from nnkit.vm.emit.emitter import Emitter
from nnkit.vm.emit.operands import address_of, value_of
from nnkit.vm.emit.values import Memory, Value
from nnkit.vm.memory.access import Access, Group
from nnkit.vm.text.builder import BITS
from nnkit.vm.text.layout import WINDOW_SIZE, WINDOWS, Context, Worker


def base_value(e: Emitter, access: Access) -> Value:
    """The base address in 64 bits; window addresses may be given in 32, others are filled up with zeros."""
    base = access.base
    if isinstance(base, Register):
        value = e.read(base.name)
        if BITS[value.kind] == 64:
            return e.as_kind(value, "i64")
        short = e.as_kind(value, "i32")
        if access.space in ("shared", "local", "param"):
            return short
        if short.shape.kind == "uniform":
            return Value(e.uniform(), "i64", scalar=e.one.resize("i32", short.scalar, "i64"))
        return Value(VARYING, "i64", vector=e.all.resize("i32", e.vector(short), "i64"))
    if isinstance(base, Symbol) and base.name in e.kernel.memory.globals:
        return address_of(e, base.name, 0, "i64")
    return value_of(e, base, "u64")


def anchor(e: Emitter, access: Access, group: Group, base: Value) -> str:
    """Lane 0's host address at a group's lowest offset; "" where each lane's is computed for itself."""
    if base.shape.kind == "varying" or access.space in ("local", "generic"):
        return ""
    moved = e.one.binary("add", base.kind, base.scalar, e.one.constant(base.kind, group.low))
    moved = e.one.resize(base.kind, moved, "i64", sign=True)
    if access.space in ("shared", "param"):
        return e.text.op(f"getelementptr i8, ptr {_window_start(e, access.space)}, i64 {moved}")
    return e.text.op(f"inttoptr i64 {moved} to ptr")


def pointer(e: Emitter, group: Group, access: Access, extra: int = 0) -> str:
    """Lane 0's address of an access, `extra` bytes further."""
    step = access.offset - group.low + extra
    return e.text.op(f"getelementptr i8, ptr {group.anchor}, i64 {step}") if step else group.anchor


def pointers(e: Emitter, access: Access, base: Value, extra: int = 0) -> str:
    """Every lane's host address of an access, as a vector of pointers; nothing computed here is kept."""
    base = Value(base.shape, base.kind, base.scalar, base.vector)
    vector = e.vector(base)
    offset = access.offset + extra
    moved = e.all.binary("add", base.kind, vector, e.all.constant(base.kind, offset))
    host = e.all.resize(base.kind, moved, "i64", sign=True)
    if access.space in ("shared", "local", "param"):
        host = e.all.binary("add", "i64", _lane_starts(e, access.space), host)
    elif access.space == "generic":
        host = _translated(e, host)
    return e.text.op(f"inttoptr {e.all.type('i64')} {host} to {e.all.type('ptr')}")


def local_stride(memory: Memory) -> int:
    """Bytes from one thread's local memory to the next one's: aligned for every access."""
    return -(-memory.local_bytes // 16) * 16


def _window_start(e: Emitter, space: str) -> str:
    """Where shared memory or the parameters begin on the host."""
    if space == "shared":
        return e.worker_field(Worker.SHARED, "ptr")
    return e.context_field(Context.PARAMETERS, "ptr")


def _lane_starts(e: Emitter, space: str) -> str:
    """Where each lane's window begins in host memory."""
    if space != "local":
        return e.splat("i64", e.text.op(f"ptrtoint ptr {_window_start(e, space)} to i64"))
    start = e.worker_field(Worker.LOCAL)
    vector = e.text.op("load i64, ptr %vector")
    skipped = e.one.binary("mul", "i64", vector, str(e.width * local_stride(e.kernel.memory)))
    first = e.splat("i64", e.one.binary("add", "i64", start, skipped))
    steps = ", ".join(f"i64 {lane * local_stride(e.kernel.memory)}" for lane in range(e.width))
    return e.all.binary("add", "i64", first, f"<{steps}>")


def _translated(e: Emitter, address: str) -> str:
    host = address
    for space, window in WINDOWS.items():
        distance = e.all.binary("sub", "i64", address, e.all.constant("i64", window))
        moved = e.all.binary("add", "i64", _lane_starts(e, space), distance)
        host = e.all.select(_in_window(e, address, window), "i64", moved, host)
    return host


def _in_window(e: Emitter, vector: str, window: int) -> str:
    """Whether each lane's generic address lies in a window."""
    distance = e.all.binary("sub", "i64", vector, e.all.constant("i64", window))
    return e.all.compare("ult", "i64", distance, e.all.constant("i64", WINDOW_SIZE))
