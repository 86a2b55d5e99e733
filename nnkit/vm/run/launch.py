"""One launch under way: blocks spread over threads, stopping, calls back into Python, and what went wrong."""

import _signal  # type: ignore[import-not-found]  # What `signal` is built on: its own wrapper costs as much as a small launch.
import ctypes
import struct
import threading
import time
from dataclasses import replace
from typing import Any

from nnkit.ptx.ir import Location
from nnkit.vm.run.explain import Explanation, Words
from nnkit.vm.run.faults import FaultRecord, KernelFault
from nnkit.vm.run.kernel import Kernel
from nnkit.vm.run.printf import render
from nnkit.vm.run.team import Helper
from nnkit.vm.run.variant import Arena, Variant
from nnkit.vm.text.layout import (
    LOCAL_WINDOW,
    PART_WORDS,
    SHARED_WINDOW,
    Context,
    Fault,
    Worker,
)

MOST_BLOCKS_AT_ONCE = 64
"""How many blocks a thread takes from the common counter; fewer where there are few: all finish together."""

FUEL, LEAST_FUEL = 20_000_000, 1000
"""Instructions of one vector between two looks at signals, at most and at least."""

LOOK = 0.03
"""Seconds that there should be between two looks: instructions differ in what they take a thousandfold."""

WORTH_A_THREAD = 10e-6
WORTH_WAKING = 30e-6
"""Seconds of work below which other threads get none, and below which those that sleep are not woken."""

INTERRUPTS = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGALRM)
"""The signals whose handlers may want to end a launch."""

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


class Run:
    """One launch under way."""

    def __init__(
        self,
        kernel: Kernel,
        variant: Variant,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        parameters: "ctypes.Array[ctypes.c_char] | bytearray | bytes",
        shared_bytes: int,
    ):
        self.kernel = kernel
        self.host = kernel.host
        self.variant = variant
        self.block = block
        self.blocks = grid[0] * grid[1] * grid[2]
        self.shared = kernel.traits.static_shared + shared_bytes
        self.failure: BaseException | None = None
        self.spent = 0
        # Also what they point to: an array that the program drops meanwhile stays until the end.
        self.allocations = self.host.memory.snapshot()
        self.parameters = ctypes.create_string_buffer(bytes(parameters), max(len(parameters), 1))
        vectors = variant.native.vectors
        # Nothing measured yet: a guess of 10 ns an instruction of a vector.
        a_block = variant.seconds_a_block or vectors * kernel.traits.instructions * 1e-8 or 1e-9
        expected = a_block * self.blocks
        workers = min(self.host.threads, self.blocks) if expected > WORTH_A_THREAD else 1
        self.wakes = expected > WORTH_WAKING
        self.workers = workers
        self.context = (ctypes.c_int64 * (int(Context.WORDS) + PART_WORDS * workers))()
        refill, call = _callbacks()
        # What blocks use up until the first look if they have no loops.
        fuel = int(LOOK * (vectors + 1) / a_block)
        fuel = FUEL if fuel > FUEL else LEAST_FUEL if fuel < LEAST_FUEL else fuel
        self.quantum = min(fuel, self.host.limit) if self.host.limit else fuel
        self.given: dict[int, tuple[int, float]] = {}
        """What each worker got last, and when."""
        self.started = 0.0
        _CONTEXT.pack_into(
            self.context,
            0,
            workers,
            self.blocks,
            ctypes.addressof(self.parameters),
            *grid,
            0,
            self.allocations.rows.ctypes.data,
            len(self.allocations.rows),
            self.shared,
            refill,
            call,
            shared_bytes,
            kernel.addresses.ctypes.data,
            max(1, min(self.blocks // (8 * workers), MOST_BLOCKS_AT_ONCE)),
        )
        for part in range(workers):
            place = int(Context.WORDS) + PART_WORDS * part
            self.context[place] = self.blocks * part // workers
            self.context[place + 1] = self.blocks * (part + 1) // workers

    def go(self) -> None:
        """Spread the blocks over threads, wait for all, report what went wrong."""
        context = ctypes.addressof(self.context)
        arenas = [self._arena(0)]
        started = self.started = time.perf_counter()
        _RUNNING[context] = self
        failed = 0
        handlers = self._keep_signals()
        helpers: list[Helper] = []
        try:
            if self.workers > 1:
                for part, helper in enumerate(self.host.team.helpers(self.workers - 1), 1):
                    arenas.append(self._arena(part))
                    if helper.post(self.variant.address, context, arenas[-1].address, self.wakes):
                        helpers.append(helper)
            failed = self.variant.run(context, arenas[0].address)
        except BaseException as error:
            self._stop(error)
        for helper in helpers:
            self._wait(helper, context)
        del _RUNNING[context]
        for number, handler in handlers:
            _signal.signal(number, handler)
        if self.variant.native.counters:
            self.kernel.counted(self.variant.counts(arenas))
        if failed or self.context[Context.STOP]:
            self._explain(arenas)
        self.variant.seconds_a_block = (time.perf_counter() - started) * (len(helpers) + 1) / self.blocks
        # An arena of a launch that failed is given up.
        self.variant.give(arenas)

    def _arena(self, part: int) -> Arena:
        """Memory for the worker whose own part of the grid that is."""
        arena = self.variant.take(self.shared, self.quantum)
        arena.record[Worker.PART] = part
        return arena

    # -- stopping -------------------------------------------------------------------------------------------

    def _keep_signals(self) -> list[tuple[int, Any]]:
        """Handlers of signals run as ever, but what they raise waits for the end; returns what was replaced.

        Raised at once it could be lost: a handler runs when a callback of the kernel enters Python, before
        the callback's own `try`, and no exception passes through native code.
        """
        replaced: list[tuple[int, Any]] = []
        # Only the main thread runs handlers, and only it may replace them.
        if threading.get_ident() == threading.main_thread().ident:
            for number in INTERRUPTS:
                handler = _signal.getsignal(number)
                if callable(handler):
                    _signal.signal(number, self._kept(handler))
                    replaced.append((number, handler))
        return replaced

    def _kept(self, handler: Any) -> Any:
        def handle(number: int, frame: object) -> None:
            try:
                handler(number, frame)
            except BaseException as error:
                self._stop(error)

        return handle

    def _stop(self, error: BaseException) -> None:
        """End the launch soon; of several reasons the first is told."""
        self.failure = self.failure or error
        self.context[Context.STOP] = 1

    def _wait(self, helper: Helper, context: int) -> None:
        """Until the thread is not in the kernel's code any more, whatever happens meanwhile."""
        while not helper.recall(context):
            try:
                time.sleep(0.00002)
            except BaseException as error:
                self._stop(error)

    def refill(self, worker: int) -> int:
        """More fuel, or 0 to stop: after Ctrl-C, a failure elsewhere, or at the user's limit.

        As much as lasts to the next look, by what the last took. `worker` is the address of its record.
        """
        try:
            last, since = self.given.get(worker, (self.quantum, self.started))
            now = time.perf_counter()
            self.spent += last
            if self.context[Context.STOP]:
                return 0
            limit = self.host.limit
            if limit and self.spent >= limit:
                raise self._stopped(f"stopped after NNKIT_MAX_INSTRUCTIONS={limit}")
            times = min(8.0, max(1 / 64, LOOK / max(now - since, 1e-6)))
            fuel = min(FUEL, max(LEAST_FUEL, int(last * times)))
            fuel = min(fuel, limit - self.spent) if limit else fuel
            self.given[worker] = fuel, now
        except BaseException as error:
            self._stop(error)
            return 0
        return fuel

    # -- calls from kernels ---------------------------------------------------------------------------------

    def call(self, record: Words, site: int, mask: int, area: Words) -> int:
        """vprintf and __assertfail, for the active lanes in turn; 1 to leave the kernel."""
        try:
            name = self.variant.native.sites[site].what
            width = self.variant.native.width
            for lane in range(width):
                # Ctrl-C, or what ended the launch in another thread, may come between any two lines.
                if self.context[Context.STOP]:
                    return 1
                if mask >> lane & 1:
                    words = [area[index * width + lane] for index in range(2 if name == "vprintf" else 3)]
                    if name != "vprintf":
                        raise self._assertion(record, site, lane, words)
                    area[lane] = self._printf(record, lane, *words)
        except BaseException as error:
            self._stop(error)
            return 1
        return 0

    def _printf(self, record: Words, lane: int, template: int, arguments: int) -> int:
        packed = self._bytes_at(record, lane, arguments) or b""
        text, count = render(
            self._string(record, lane, template), packed, lambda at: self._string(record, lane, at)
        )
        self.host.output(text.decode(errors="replace"))
        return count

    def _assertion(self, record: Words, site: int, lane: int, words: list[int]) -> KernelFault:
        message, file = (self._string(record, lane, word).decode(errors="replace") for word in words[:2])
        # The assertion itself says where it stands.
        place = Location(file, words[2] & 0xFFFFFFFF)
        asserting = replace(self.variant.native.sites[site], location=place)
        return KernelFault(self._explanation.at(Fault.CALL, record, asserting, lane, detail=message))

    def _string(self, record: Words, lane: int, address: int) -> bytes:
        """A C string in the kernel's memory."""
        found = self._bytes_at(record, lane, address)
        if found is None:
            return f"<bad string at {address & (1 << 64) - 1:#x}>".encode() if address else b"(null)"
        return found.partition(b"\0")[0]

    def _bytes_at(self, record: Words, lane: int, address: int) -> bytes | None:
        """What a generic address points to, up to the end of its memory; None where there is nothing."""
        local, stride = self.kernel.traits.local_bytes, self.variant.native.local_stride
        if LOCAL_WINDOW <= address < LOCAL_WINDOW + local:
            thread = record[Worker.FAULT_VECTOR] * self.variant.native.width + lane
            offset = address - LOCAL_WINDOW
            return ctypes.string_at(record[Worker.LOCAL] + thread * stride + offset, local - offset)
        if SHARED_WINDOW <= address < SHARED_WINDOW + self.shared:
            offset = address - SHARED_WINDOW
            return ctypes.string_at(record[Worker.SHARED] + offset, self.shared - offset)
        allocation = self.host.memory.holding(address, 1)
        return allocation.owner[address - allocation.start :].tobytes() if allocation else None

    # -- what went wrong ------------------------------------------------------------------------------------

    @property
    def _explanation(self) -> Explanation:
        return Explanation(self.kernel, self.variant.native, self.block, self.shared)

    def _stopped(self, how: str) -> KernelFault:
        return KernelFault(FaultRecord(Fault.STOPPED, self.kernel.name, detail=how))

    def _explain(self, arenas: list[Arena]) -> None:
        """Raise what the first worker with a fault met."""
        if self.failure is not None:
            raise self.failure
        for arena in arenas:
            kind = Fault(arena.record[Worker.FAULT])
            if kind is Fault.DEADLOCK:
                raise KernelFault(self._explanation.deadlock(arena.record))
            # A worker that left a call because of another one's fault has none of its own.
            if kind not in (Fault.NONE, Fault.STOPPED, Fault.CALL):
                raise KernelFault(self._explanation.fault(kind, arena.record))
        raise self._stopped("interrupted")


_RUNNING: dict[int, Run] = {}


def _refill(context: Words, record: Words) -> int:
    run = _RUNNING.get(ctypes.addressof(context.contents))
    return run.refill(ctypes.addressof(record.contents)) if run else 0


def _called(context: Words, record: Words, site: int, mask: int, area: Words) -> int:
    run = _RUNNING.get(ctypes.addressof(context.contents))
    return run.call(record, site, mask, area) if run else 1


_REFILL_CALLBACK = _REFILL(_refill)
_CALL_CALLBACK = _CALL(_called)
_ADDRESSES: list[int] = []


def _callbacks() -> tuple[int, int]:
    """The addresses that generated code calls."""
    if not _ADDRESSES:
        callbacks = (_REFILL_CALLBACK, _CALL_CALLBACK)
        _ADDRESSES.extend(ctypes.cast(callback, ctypes.c_void_p).value or 0 for callback in callbacks)
    return _ADDRESSES[0], _ADDRESSES[1]
