"""Numbers that a kernel counts while it runs, by name: each worker for itself, and added up at the end."""

from nnkit.vm.emit.emitter import Emitter
from nnkit.vm.text.layout import Worker


def count(e: Emitter, name: str, amount: str) -> None:
    """Add an i64 to a counter; its total is in the kernel's `counts` after the launch."""
    names = e.kernel.counters
    if name not in names:
        names.append(name)
    table = e.worker_field(Worker.COUNTERS, "ptr")
    place = e.text.op(f"getelementptr i64, ptr {table}, i64 {names.index(name)}")
    before = e.text.op(f"load i64, ptr {place}")
    e.text.line(f"store i64 {e.one.binary('add', 'i64', before, amount)}, ptr {place}")
