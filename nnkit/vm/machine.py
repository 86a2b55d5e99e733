"""The machine: modules in, launches out. Compiles a kernel for every kind of launch it meets, and keeps the code."""

import ctypes
import os
import queue
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nnkit.ptx.ir import Module, PtxError
from nnkit.ptx.parse import parse
from nnkit.vm.analysis import SMALL_GRID, Launch
from nnkit.vm.compile import Native, Program, prepare
from nnkit.vm.faults import KernelFault, Place, describe
from nnkit.vm.layout import LOCAL_WINDOW, SHARED_WINDOW, Context, Fault, Worker
from nnkit.vm.memory_table import READ_ONLY, Allocation, MemoryTable
from nnkit.vm.native import load_native
from nnkit.vm.printf import render

FUEL = 20_000_000
"""Instructions of one vector between two looks at signals: some 10 to 50 ms."""

WORTH_A_THREAD = 60e-6
"""Seconds of work below which other threads are not woken."""

_RUN = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)
_REFILL = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.POINTER(ctypes.c_int64), ctypes.POINTER(ctypes.c_int64))
_CALL = ctypes.CFUNCTYPE(
    ctypes.c_int64,
    ctypes.POINTER(ctypes.c_int64),
    ctypes.POINTER(ctypes.c_int64),
    ctypes.c_int64,
    ctypes.c_int64,
    ctypes.POINTER(ctypes.c_int64),
)
_CONTEXT = struct.Struct(f"<{int(Context.WORDS)}q")


class Machine:
    """Memory, threads and settings that all modules share."""

    def __init__(self, threads: int | None = None, width: int | None = None, poison: bool | None = None):
        """`threads`, `width` (lanes of a vector) and `poison` default to the environment's NNKIT_ settings."""
        self.memory = MemoryTable()
        self.threads = threads or _setting("NNKIT_THREADS", len(os.sched_getaffinity(0)))
        self.width = width
        self.poison = _setting("NNKIT_POISON", 0) != 0 if poison is None else poison
        self.limit = _setting("NNKIT_MAX_INSTRUCTIONS", 0)
        self.output: Callable[[str], object] = sys.stdout.write
        self._pool: list[queue.SimpleQueue[Callable[[], object] | None]] = []

    def load(self, ptx: str) -> "LoadedModule":
        """Parse PTX, give its variables memory, and refuse what the machine does not know. Raises PtxError."""
        return LoadedModule(self, parse(ptx), ptx)

    def helpers(self, wanted: int) -> "list[queue.SimpleQueue[Callable[[], object] | None]]":
        """Queues of threads that wait for work, besides the calling one."""
        while len(self._pool) < wanted:
            work: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
            threading.Thread(target=_serve, args=(work,), daemon=True, name="nnkit-worker").start()
            self._pool.append(work)
        return self._pool[:wanted]

    def close(self) -> None:
        """Let the threads end; a second call does nothing."""
        for work in self._pool:
            work.put(None)
        self._pool = []


def _serve(work: "queue.SimpleQueue[Callable[[], object] | None]") -> None:
    while (task := work.get()) is not None:
        task()
        del task


def _setting(name: str, default: int) -> int:
    """A whole number from the environment. Raises ValueError, in one line, for anything else."""
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0 or (name == "NNKIT_THREADS" and value < 1):
        raise ValueError(
            f"{name}={text}: give a whole number{' of 1 or more' if name == 'NNKIT_THREADS' else ''}"
        )
    return value


class LoadedModule:
    """A module's kernels and its variables in memory."""

    def __init__(self, machine: Machine, module: Module, ptx: str):
        self.machine = machine
        self.module = module
        self.ptx = ptx
        self.variables: dict[str, Allocation] = {}
        for variable in module.variables.values():
            if variable.space in ("global", "const"):
                flags = READ_ONLY if variable.space == "const" else 0
                label = f"{variable.space} variable {variable.name}"
                allocation = machine.memory.allocate(variable.size, label, flags)
                allocation.owner[:] = np.frombuffer(variable.initial or bytes(variable.size), np.uint8)
                self.variables[variable.name] = allocation
        for variable in module.variables.values():
            for relocation in variable.relocations:
                target = self.variables.get(relocation.symbol)
                if target is None:
                    raise PtxError(
                        f"{variable.name} holds the address of {relocation.symbol}, which is not there"
                    )
                word = (target.start + relocation.offset).to_bytes(8, "little")
                place = self.variables[variable.name].owner
                place[relocation.at : relocation.at + 8] = np.frombuffer(word, np.uint8)
        self.addresses = np.array([a.start for a in self.variables.values()] or [0], np.int64)
        self.kernels = {name: LoadedKernel(self, prepare(module, name)) for name in module.kernels}

    def close(self) -> None:
        """Free the variables; kernels must not be launched any more."""
        for allocation in self.variables.values():
            self.machine.memory.free(allocation)


@dataclass
class Arena:
    """One thread's memory for one kind of launch."""

    record: "ctypes.Array[ctypes.c_int64]"
    buffer: "np.ndarray[tuple[int], np.dtype[np.uint8]]"
    sites: "np.ndarray[tuple[int], np.dtype[np.uint8]]"
    shared_bytes: int
    address: int


class Variant:
    """A kernel's code for one kind of launch, with an arena for each thread that has run it."""

    def __init__(self, native: Native):
        self.native = native
        self.library, address = load_native(native.code)
        self.run = _RUN(address)
        self.arenas: list[Arena] = []
        self.seconds_a_block = 0.0

    def arena(self, index: int, shared_bytes: int) -> Arena:
        """The arena of the thread of that number, large enough for that much shared memory."""
        while index >= len(self.arenas):
            self.arenas.append(self._make(shared_bytes))
        if self.arenas[index].shared_bytes < shared_bytes:
            self.arenas[index] = self._make(shared_bytes)
        return self.arenas[index]

    def _make(self, shared_bytes: int) -> Arena:
        native = self.native
        sizes = {
            Worker.FRAMES: native.frame_bytes * native.vectors,
            Worker.SHARED: shared_bytes,
            Worker.LOCAL: native.local_bytes * native.vectors * native.width,
            Worker.SITES: 16 * max(native.caches, 1),
            Worker.ADDRESSES: 8 * native.width,
            Worker.RESUME: 4 * native.vectors,
            Worker.ALIVE: 8 * native.vectors,
            Worker.BARRIER: 8 * native.vectors,
        }
        total = sum(-(-size // 64) * 64 for size in sizes.values()) + 64
        buffer = np.zeros(total, np.uint8)
        at = -(-buffer.ctypes.data // 64) * 64
        record = (ctypes.c_int64 * int(Worker.WORDS))()
        sites = buffer[:0]
        for field, size in sizes.items():
            record[field] = at
            if field == Worker.SITES:
                offset = at - buffer.ctypes.data
                sites = buffer[offset : offset + size]
            at += -(-size // 64) * 64
        return Arena(record, buffer, sites, shared_bytes, ctypes.addressof(record))


class LoadedKernel:
    """A kernel that can be launched."""

    def __init__(self, module: LoadedModule, program: Program):
        self.module = module
        self.machine = module.machine
        self.program = program
        self.name = program.function.name
        self._variants: dict[tuple[tuple[int, int, int], bool], Variant] = {}

    @property
    def static_shared(self) -> int:
        """Bytes of shared memory that the source declares."""
        return self.program.memory.static_shared

    def variant(self, block: tuple[int, int, int], small_grid: bool) -> Variant:
        """The code for a block's shape; compiled, or fetched from the cache, when it is first needed."""
        key = (block, small_grid)
        found = self._variants.get(key)
        if found is None:
            width = 32 if self.program.warp_level else self.machine.width or 16
            from nnkit.vm.native import native_code

            launch = Launch(block, width, small_grid)
            native = native_code(self.module.ptx, self.program, launch, self.machine.poison)
            found = self._variants[key] = Variant(native)
        return found

    def launch(
        self,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        parameters: "ctypes.Array[ctypes.c_char] | bytearray | bytes",
        shared_bytes: int = 0,
    ) -> None:
        """Run over the grid and wait. Raises KernelFault, PtxError, or KeyboardInterrupt after Ctrl-C."""
        variant = self.variant(block, grid[0] <= SMALL_GRID)
        _Run(self, variant, grid, block, parameters, shared_bytes).go()


class _Run:
    """One launch under way."""

    def __init__(
        self,
        kernel: LoadedKernel,
        variant: Variant,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        parameters: "ctypes.Array[ctypes.c_char] | bytearray | bytes",
        shared_bytes: int,
    ):
        self.kernel = kernel
        self.machine = kernel.machine
        self.variant = variant
        self.block = block
        self.blocks = grid[0] * grid[1] * grid[2]
        self.shared = kernel.static_shared + shared_bytes
        self.failure: BaseException | None = None
        self.spent = 0
        self.keep: list[object] = []
        rows = self.machine.memory.rows
        self.parameters = ctypes.create_string_buffer(bytes(parameters), max(len(parameters), 1))
        self.context = (ctypes.c_int64 * int(Context.WORDS))()
        refill, call = _callbacks()
        self.quantum = min(FUEL, self.machine.limit) if self.machine.limit else FUEL
        _CONTEXT.pack_into(
            self.context,
            0,
            0,
            self.blocks,
            ctypes.addressof(self.parameters),
            *grid,
            0,
            rows.ctypes.data,
            len(self.machine.memory),
            self.shared,
            refill,
            call,
            0,
            shared_bytes,
            kernel.module.addresses.ctypes.data,
            0,
        )
        self.keep.append(rows)

    def go(self) -> None:
        """Spread the blocks over threads, wait for all, report what went wrong."""
        count = self._threads()
        arenas = [self._prepare(index) for index in range(count)]
        address = ctypes.addressof(self.context)
        started = time.perf_counter()
        _RUNNING[address] = self
        try:
            if count > 1:
                for work, arena in zip(self.machine.helpers(count - 1), arenas[1:], strict=True):
                    work.put(_Task(self, address, arena))
            failed = self.variant.run(address, arenas[0].address)
            while self.context[Context.INSIDE]:
                self._wait()
            failed = failed or self.context[Context.STOP]
        finally:
            del _RUNNING[address]
        if failed:
            self._explain(arenas)
        self.variant.seconds_a_block = (time.perf_counter() - started) * count / self.blocks

    def _threads(self) -> int:
        """As many as have something to do, if there is enough to do for waking them."""
        most = min(self.machine.threads, self.blocks)
        if most < 2:
            return 1
        expected = self.variant.seconds_a_block * self.blocks
        if not self.variant.seconds_a_block:
            # Nothing measured yet: a guess of 10 ns an instruction of a vector.
            body = len(self.kernel.program.function.body or ())
            expected = self.blocks * self.variant.native.vectors * body * 1e-8
        return most if expected > WORTH_A_THREAD else 1

    def _prepare(self, index: int) -> Arena:
        arena = self.variant.arena(index, self.shared)
        arena.sites.fill(0)
        arena.record[Worker.FUEL] = self.quantum
        arena.record[Worker.FAULT] = 0
        return arena

    def _wait(self) -> None:
        try:
            time.sleep(0.00002)
        except KeyboardInterrupt as error:
            self.failure = error
            self.context[Context.STOP] = 1

    def refill(self) -> int:
        """More fuel, or 0 to stop: after Ctrl-C, a failure elsewhere, or at the user's limit."""
        try:
            self.spent += self.quantum
            if self.context[Context.STOP]:
                return 0
            limit = self.machine.limit
            if limit and self.spent >= limit:
                raise KernelFault(
                    Fault.STOPPED,
                    f"kernel {self.kernel.name} was stopped after NNKIT_MAX_INSTRUCTIONS={limit} instructions",
                )
        except BaseException as error:
            self.failure = self.failure or error
            self.context[Context.STOP] = 1
            return 0
        return self.quantum

    # -- calls from kernels ---------------------------------------------------------------------------------

    def call(
        self,
        record: "ctypes._Pointer[ctypes.c_int64]",
        site: int,
        mask: int,
        area: "ctypes._Pointer[ctypes.c_int64]",
    ) -> int:
        """vprintf and __assertfail, for the active lanes in turn."""
        try:
            name = self.variant.native.sites[site].what
            width = self.variant.native.width
            for lane in range(width):
                if mask >> lane & 1:
                    if name == "vprintf":
                        area[lane] = self._printf(record, lane, area[lane], area[width + lane])
                    else:
                        words = [area[index * width + lane] for index in range(3)]
                        raise self._assertion(record, site, lane, words)
        except BaseException as error:
            self.failure = self.failure or error
            self.context[Context.STOP] = 1
            return 1
        return 0

    def _printf(
        self, record: "ctypes._Pointer[ctypes.c_int64]", lane: int, template: int, arguments: int
    ) -> int:
        packed = b""
        if arguments:
            packed = self._bytes_at(record, lane, arguments)
        text = render(self._string(template), packed, self._string)
        self.machine.output(text)
        return len(text)

    def _assertion(
        self, record: "ctypes._Pointer[ctypes.c_int64]", site: int, lane: int, words: list[int]
    ) -> KernelFault:
        message, file = self._string(words[0]), self._string(words[1])
        place = self._place(record, self.variant.native.sites[site], lane)
        where = f"{file}:{words[2] & 0xFFFFFFFF}"
        thread = f"block {place.block}, thread {place.thread}"
        return KernelFault(
            Fault.CALL, f"kernel {self.kernel.name} at {where}, {thread}: assertion failed: {message}"
        )

    def _string(self, address: int) -> str:
        """A C string in device memory."""
        allocation = self.machine.memory.holding(address, 1)
        if allocation is None:
            return f"<bad string at {address:#x}>"
        rest = allocation.owner[address - allocation.start :].tobytes()
        return rest.partition(b"\0")[0].decode(errors="replace")

    def _bytes_at(self, record: "ctypes._Pointer[ctypes.c_int64]", lane: int, address: int) -> bytes:
        """What a generic address points to, up to the end of its memory."""
        local = self.variant.native.local_bytes
        if LOCAL_WINDOW <= address < LOCAL_WINDOW + local:
            thread = record[Worker.FAULT_VECTOR] * self.variant.native.width + lane
            offset = address - LOCAL_WINDOW
            return ctypes.string_at(record[Worker.LOCAL] + thread * local + offset, local - offset)
        if SHARED_WINDOW <= address < SHARED_WINDOW + self.shared:
            offset = address - SHARED_WINDOW
            return ctypes.string_at(record[Worker.SHARED] + offset, self.shared - offset)
        allocation = self.machine.memory.holding(address, 1)
        return allocation.owner[address - allocation.start :].tobytes() if allocation else b""

    # -- what went wrong ------------------------------------------------------------------------------------

    def _place(
        self,
        record: "ctypes._Pointer[ctypes.c_int64] | ctypes.Array[ctypes.c_int64]",
        site: object,
        lane: int,
    ) -> Place:
        x, y, _ = self.block
        thread = record[Worker.FAULT_VECTOR] * self.variant.native.width + lane
        block = (record[Worker.BLOCK_X], record[Worker.BLOCK_Y], record[Worker.BLOCK_Z])
        return Place(self.kernel.name, site, block, (thread % x, thread // x % y, thread // (x * y)))  # type: ignore[arg-type]

    def _explain(self, arenas: list[Arena]) -> None:
        """Raise what the first worker with a fault met."""
        if self.failure is not None:
            raise self.failure
        for arena in arenas:
            record = arena.record
            kind = Fault(record[Worker.FAULT])
            if kind in (Fault.NONE, Fault.STOPPED):
                continue
            if kind is Fault.DEADLOCK:
                raise KernelFault(kind, self._deadlock(record))
            site = self.variant.native.sites[record[Worker.FAULT_SITE]]
            place = self._place(record, site, record[Worker.FAULT_LANE])
            address = record[Worker.FAULT_ADDRESS]
            space, limit, near = site.space, -1, ""
            if space == "generic":
                space = "shared" if kind is Fault.MEMORY and 0 <= address < 1 << 32 else "global"
            if space in ("shared", "local", "param"):
                memory = self.kernel.program.memory
                sizes = {"shared": self.shared, "local": memory.local_bytes, "param": memory.parameter_bytes}
                limit = sizes[space]
            else:
                near = self.machine.memory.nearest(address, site.size)
            raise KernelFault(kind, describe(kind, place, address, near, limit))

    def _deadlock(self, record: "ctypes.Array[ctypes.c_int64]") -> str:
        native = self.variant.native
        resume = (ctypes.c_int32 * native.vectors).from_address(record[Worker.RESUME])
        waits = (ctypes.c_int64 * native.vectors).from_address(record[Worker.BARRIER])
        groups: dict[str, list[int]] = {}
        for vector in range(native.vectors):
            what = "left the kernel" if resume[vector] < 0 else f"wait at barrier {waits[vector] & 255}"
            groups.setdefault(what, []).append(vector)
        width, last = native.width, self.block[0] * self.block[1] * self.block[2] - 1
        parts = []
        for what, vectors in groups.items():
            first, end = vectors[0] * width, min((vectors[-1] + 1) * width - 1, last)
            parts.append(f"threads {first} to {end} {what}")
        block = (record[Worker.BLOCK_X], record[Worker.BLOCK_Y], record[Worker.BLOCK_Z])
        return (
            f"kernel {self.kernel.name}, block {block}: not all threads reach the same barrier, so none can go on: "
            f"{'; '.join(parts)}"
        )


class _Task:
    """A share of a launch for a helper thread; keeps alive what it uses."""

    def __init__(self, run: _Run, address: int, arena: Arena):
        self.run, self.address, self.arena = run, address, arena

    def __call__(self) -> object:
        return self.run.variant.run(self.address, self.arena.address)


_RUNNING: dict[int, _Run] = {}


def _refill(context: "ctypes._Pointer[ctypes.c_int64]", record: "ctypes._Pointer[ctypes.c_int64]") -> int:
    run = _RUNNING.get(ctypes.addressof(context.contents))
    return run.refill() if run else 0


def _called(
    context: "ctypes._Pointer[ctypes.c_int64]",
    record: "ctypes._Pointer[ctypes.c_int64]",
    site: int,
    mask: int,
    area: "ctypes._Pointer[ctypes.c_int64]",
) -> int:
    run = _RUNNING.get(ctypes.addressof(context.contents))
    return run.call(record, site, mask, area) if run else 1


_REFILL_CALLBACK = _REFILL(_refill)
_CALL_CALLBACK = _CALL(_called)
_ADDRESSES: list[int] = []


def _callbacks() -> tuple[int, int]:
    """The addresses that generated code calls."""
    if not _ADDRESSES:
        _ADDRESSES.extend(
            ctypes.cast(callback, ctypes.c_void_p).value or 0
            for callback in (_REFILL_CALLBACK, _CALL_CALLBACK)
        )
    return _ADDRESSES[0], _ADDRESSES[1]
