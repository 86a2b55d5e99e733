"""Host addresses of an access: of lane 0 for those that follow a pattern, of every lane for all others."""

from nnkit.vm.emit.emitter import Emitter
from nnkit.vm.emit.values import Memory, Value
from nnkit.vm.memory.access import Access, Group
from nnkit.vm.memory.checks import in_window, space_pointer
from nnkit.vm.text.layout import WINDOWS, Worker


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


def _lane_starts(e: Emitter, space: str) -> str:
    """Where each lane's window begins in host memory."""
    if space != "local":
        return e.splat("i64", e.text.op(f"ptrtoint ptr {space_pointer(e, space)} to i64"))
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
        host = e.all.select(in_window(e, address, window), "i64", moved, host)
    return host
