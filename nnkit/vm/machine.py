"""The machine: modules in, launches out. Compiles a kernel for every kind of launch, and keeps the code."""

import contextlib
import ctypes
import gc
import os
import queue
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from nnkit.ptx.ir import Instruction, Module, PtxError
from nnkit.ptx.parse import parse
from nnkit.vm import calls
from nnkit.vm.compile import Native, Program, choose_width, prepare
from nnkit.vm.geometry import SMALL_GRID, Launch
from nnkit.vm.launch import Run
from nnkit.vm.layout import Worker
from nnkit.vm.memory_table import READ_ONLY, Allocation, MemoryTable
from nnkit.vm.native import load_native, native_code

_RUN = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)

WIDTHS = (None, 1, 8, 16, 32, 64)
"""Lanes of a vector that the generated code can have; None: what suits the kernel."""

_COMPILING = threading.Lock()
"""LLVM is entered by one thread at a time."""


class Machine:
    """Memory, threads and settings that all modules share."""

    def __init__(self, threads: int | None = None, width: int | None = None, poison: bool | None = None):
        """`threads`, `width` (lanes of a vector) and `poison`: by default the NNKIT_ settings."""
        self.memory = MemoryTable()
        self.threads = threads or _setting("NNKIT_THREADS", len(os.sched_getaffinity(0)))
        self.width = width
        if width not in WIDTHS:
            raise ValueError(f"width={width}: give one of {', '.join(map(str, WIDTHS[1:]))}")
        self.poison = _setting("NNKIT_POISON", 0) != 0 if poison is None else poison
        self.limit = _setting("NNKIT_MAX_INSTRUCTIONS", 0)
        self.output: Callable[[str], object] = _to_stdout
        self._pool: list[queue.SimpleQueue[Callable[[], object] | None]] = []

    def load(self, ptx: str) -> "LoadedModule":
        """Parse PTX, give its variables memory, refuse what the machine does not know. Raises PtxError."""
        # Tens of thousands of small records and no garbage: the collector would look at them in vain.
        collects = gc.isenabled()
        gc.disable()
        try:
            return LoadedModule(self, parse(ptx), ptx)
        finally:
            if collects:
                gc.enable()

    def helpers(self, wanted: int) -> "list[queue.SimpleQueue[Callable[[], object] | None]]":
        """Queues of threads that wait for work, besides the calling one; fewer if the system has no more."""
        with contextlib.suppress(RuntimeError):
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


def _to_stdout(text: str) -> None:
    """To what sys.stdout is now, not what it was when the machine was made."""
    sys.stdout.write(text)


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
        text = text if len(text) < 40 else f"{text[:37]}..."
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
        self.addresses = np.array([a.start for a in self.variables.values()] or [0], np.int64)
        try:
            self._relocate()
            self.kernels = {name: LoadedKernel(self, self._prepared(name)) for name in module.kernels}
        except BaseException:
            self.close()
            raise

    def _relocate(self) -> None:
        """Write the addresses that variables hold of each other."""
        for variable in self.module.variables.values():
            for relocation in variable.relocations:
                target = self.variables.get(relocation.symbol)
                if target is None:
                    known = relocation.symbol in self.module.functions
                    why = "function pointers are not supported" if known else "which is not there"
                    raise PtxError(f"{variable.name} holds the address of {relocation.symbol}: {why}")
                word = (target.start + relocation.offset).to_bytes(8, "little")
                place = self.variables[variable.name].owner
                place[relocation.at : relocation.at + 8] = np.frombuffer(word, np.uint8)

    def _prepared(self, name: str) -> Program:
        """The kernel without calls, all of it known; errors name the kernel and the source line."""
        with _refusing(self, name):
            program = prepare(self.module, name)
            for item in program.function.body or []:
                if isinstance(item, Instruction):
                    calls.refuse_unknown(item)
        return program

    def located(self, kernel: str, error: PtxError) -> PtxError:
        """The error with the kernel and the source line, as far as they are known and not yet in it."""
        text = str(error)
        if not error.line or text.startswith("kernel "):
            return error
        bodies = [item for function in self.module.functions.values() for item in function.body or []]
        found = [i.location for i in bodies if isinstance(i, Instruction) and i.line == error.line]
        where = f" ({found[0]})" if found and found[0].line else ""
        made = PtxError(f"kernel {kernel}, PTX line {error.line}{where}: {text.partition(': ')[2]}")
        made.line = error.line
        return made

    def close(self) -> None:
        """Free the variables; kernels must not be launched any more."""
        for allocation in self.variables.values():
            self.machine.memory.free(allocation)


@contextlib.contextmanager
def _refusing(module: LoadedModule, kernel: str) -> Iterator[None]:
    """Whatever goes wrong while a kernel is compiled is a PtxError that names it.

    Text that no compiler wrote can be wrong in more ways than are looked for: an operand of another kind, a
    constant that does not fit. What trips over it is the cause of the error.
    """
    try:
        yield
    except PtxError as error:
        raise module.located(kernel, error) from error.__cause__
    except (ArithmeticError, AssertionError, AttributeError, LookupError) as error:
        raise _unfit(kernel, error) from error
    except (RuntimeError, TypeError, ValueError, struct.error) as error:
        raise _unfit(kernel, error) from error


def _unfit(kernel: str, error: Exception) -> PtxError:
    words = " ".join(f"{type(error).__name__} {error}".split())
    return PtxError(f"kernel {kernel} cannot be compiled; its PTX may be malformed: {words[:200]}")


@dataclass
class Arena:
    """One thread's memory for one kind of launch; never that of two threads at once."""

    record: "ctypes.Array[ctypes.c_int64]"
    buffer: "np.ndarray[tuple[int], np.dtype[np.uint8]]"
    sites: "np.ndarray[tuple[int], np.dtype[np.uint8]]"
    shared_bytes: int
    address: int


class Variant:
    """A kernel's code for one kind of launch, with as many arenas as threads have run it at once."""

    def __init__(self, native: Native):
        self.native = native
        self.library, address = load_native(native.code)
        self.run = _RUN(address)
        self.seconds_a_block = 0.0
        self._free: list[Arena] = []

    def take(self, shared_bytes: int, fuel: int) -> Arena:
        """An arena that nobody uses, large enough for that much shared memory."""
        try:
            arena = self._free.pop()
        except IndexError:
            arena = self._make(shared_bytes)
        if arena.shared_bytes < shared_bytes:
            arena = self._make(shared_bytes)
        arena.sites.fill(0)
        arena.record[Worker.FUEL] = fuel
        arena.record[Worker.FAULT] = 0
        return arena

    def give(self, arenas: list[Arena]) -> None:
        """Back to the others; in reverse, so that the next launch meets them in the same order."""
        self._free.extend(reversed(arenas))

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
            asked = None if self.program.warp_level else self.machine.width
            width = asked or choose_width(self.program, block)
            launch = Launch(block, width, small_grid)
            with _COMPILING, _refusing(self.module, self.name):
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
        Run(self, variant, grid, block, parameters, shared_bytes).go()
