"""The machine: modules in, launches out. Compiles a kernel for every kind of launch, and keeps the code."""

import ctypes
import os
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from nnkit.ptx.ir import PtxError
from nnkit.vm.analysis import settings
from nnkit.vm.analysis.geometry import SMALL_GRID, Launch
from nnkit.vm.analysis.options import Options
from nnkit.vm.build.compile import Native
from nnkit.vm.build.native import load_native, native_code
from nnkit.vm.build.source import Outline, Source
from nnkit.vm.memory import attachments
from nnkit.vm.prepare.program import Traits, choose_width
from nnkit.vm.run import host_memory
from nnkit.vm.run.launch import Run
from nnkit.vm.run.memory_table import READ_ONLY, Allocation, MemoryTable
from nnkit.vm.run.team import Team
from nnkit.vm.text.layout import Worker

_RUN = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)

CACHE_LINE = 64

VariantKey = tuple[str, tuple[int, int, int], bool]
"""Kernel, block, whether the grid is small."""

_COMPILING = threading.Lock()
"""LLVM is entered by one thread at a time."""


class Machine:
    """Memory, threads and settings that all modules share."""

    def __init__(self, threads: int | None = None, options: Options | None = None):
        """How many threads share a grid's blocks, and how code is made; by default as the settings say.

        Raises ValueError for settings and options that are none.
        """
        self.memory = MemoryTable()
        self.threads = threads or settings.threads()
        self.options = options or settings.options()
        attachments.refuse_unknown(self.options)
        self.limit = settings.most_instructions()
        self.output: Callable[[str], object] = _to_stdout
        self.team = Team()
        # By text: modules of one text share the code, each has variables of its own.
        self._sources: weakref.WeakValueDictionary[str, Source] = weakref.WeakValueDictionary()
        self.variants: weakref.WeakKeyDictionary[Source, dict[VariantKey, Variant]] = (
            weakref.WeakKeyDictionary()
        )

    def load(self, ptx: str, shared: Mapping[str, Allocation] | None = None) -> "LoadedModule":
        """Give a module's variables memory; refuse what the machine does not know. Raises PtxError.

        Variables named in `shared` are those of another module, which must outlive this one.
        """
        source = self._sources.get(ptx)
        if source is None:
            source = self._sources[ptx] = Source(ptx)
        return LoadedModule(self, source, shared or {})

    def close(self) -> None:
        """Let the threads end; a second call does nothing."""
        self.team.close()


def _to_stdout(text: str) -> None:
    """To what sys.stdout is now, not what it was when the machine was made; nowhere if it is closed.

    Characters that it cannot write are escaped.
    """
    stream = sys.stdout
    if stream is None:
        return
    try:
        stream.write(text)
    except UnicodeEncodeError:
        code = getattr(stream, "encoding", None) or "ascii"
        stream.write(text.encode(code, "backslashreplace").decode(code))


def _host_memory() -> int:
    """Bytes of the host's memory: it hands out more, and ends processes that use it."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class LoadedModule:
    """A module's kernels and its variables in memory."""

    def __init__(self, machine: Machine, source: Source, shared: Mapping[str, Allocation]):
        """`shared` holds variables of another module (`lender`), to use in place of own ones."""
        self.machine = machine
        self.source = source
        self._shared = shared
        self.lender: LoadedModule | None = None
        """The module that the shared variables belong to."""
        self.variables: dict[str, Allocation] = {}
        outline = source.outline
        if sum(variable.size for variable in outline.variables) > _host_memory():
            raise MemoryError("the module's variables are larger than the memory of this machine")
        for variable in outline.variables:
            if variable.name in shared:
                self.variables[variable.name] = shared[variable.name]
                continue
            flags = READ_ONLY if variable.space == "const" else 0
            label = f"{variable.space} variable {variable.name}"
            allocation = machine.memory.allocate(variable.size, label, flags)
            initial = variable.initial or b""
            allocation.owner[: len(initial)] = np.frombuffer(initial, np.uint8)
            allocation.owner[len(initial) :] = 0
            self.variables[variable.name] = allocation
        self.addresses = np.array([a.start for a in self.variables.values()] or [0], np.int64)
        try:
            self._relocate(outline)
        except BaseException:
            self.close()
            raise
        self.kernels = {name: LoadedKernel(self, name, traits) for name, traits in outline.kernels.items()}
        self.refused = outline.refused
        # Its kernels and arrays hold it: when they are gone, nobody can reach its variables.
        weakref.finalize(self, _free, machine.memory, self._own())

    def _relocate(self, outline: Outline) -> None:
        """Write the addresses that variables hold of each other."""
        for variable in outline.variables:
            if variable.name in self._shared:
                continue
            for relocation in variable.relocations:
                target = self.variables.get(relocation.symbol)
                if target is None:
                    known = relocation.symbol in outline.functions
                    why = "function pointers are not supported" if known else "which is not there"
                    raise PtxError(f"{variable.name} holds the address of {relocation.symbol}: {why}")
                word = (target.start + relocation.offset).to_bytes(8, "little")
                piece = word[relocation.first : relocation.first + relocation.size]
                place = self.variables[variable.name].owner
                place[relocation.at : relocation.at + len(piece)] = np.frombuffer(piece, np.uint8)

    def close(self) -> None:
        """Free the variables; kernels must not be launched any more."""
        _free(self.machine.memory, self._own())

    def _own(self) -> list[Allocation]:
        return [allocation for name, allocation in self.variables.items() if name not in self._shared]


def _free(memory: MemoryTable, allocations: list[Allocation]) -> None:
    for allocation in allocations:
        memory.free(allocation)


@dataclass
class Arena:
    """One thread's memory for one kind of launch; never that of two threads at once."""

    record: "ctypes.Array[ctypes.c_int64]"
    pieces: dict[Worker, host_memory.Bytes]
    shared_bytes: int
    address: int


class Variant:
    """A kernel's code for one kind of launch, with as many arenas as threads have run it at once."""

    def __init__(self, native: Native):
        self.native = native
        self.library, self.address = load_native(native.code)
        self.run = _RUN(self.address)
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
        arena.pieces[Worker.SITES].fill(0)
        arena.record[Worker.FUEL] = fuel
        arena.record[Worker.FAULT] = 0
        return arena

    def give(self, arenas: list[Arena]) -> None:
        """Back to the others; in reverse, so that the next launch meets them in the same order."""
        self._free.extend(reversed(arenas))

    def _make(self, shared_bytes: int) -> Arena:
        native = self.native
        sizes = {
            Worker.FRAMES: native.frame_bytes * native.strands,
            Worker.SHARED: shared_bytes,
            Worker.LOCAL: native.local_stride * native.vectors * native.width,
            Worker.SITES: 16 * max(native.caches, 1),
            Worker.ADDRESSES: 8 * native.width,
            Worker.RESUME: 4 * native.strands,
            Worker.ALIVE: 8 * native.strands,
            Worker.BARRIER: 8 * native.strands,
        }
        pieces = {field: host_memory.take(size, CACHE_LINE, cleared=True) for field, size in sizes.items()}
        record = (ctypes.c_int64 * int(Worker.WORDS))()
        for field, piece in pieces.items():
            record[field] = piece.ctypes.data
        return Arena(record, pieces, shared_bytes, ctypes.addressof(record))


class LoadedKernel:
    """A kernel that can be launched."""

    def __init__(self, module: LoadedModule, name: str, traits: Traits):
        self.module = module
        self.machine = module.machine
        self.name = name
        self.traits = traits
        self._variants = module.machine.variants.setdefault(module.source, {})

    def variant(self, block: tuple[int, int, int], small_grid: bool) -> Variant:
        """The code for a block's shape; compiled, or fetched from the cache, when it is first needed."""
        key = (self.name, block, small_grid)
        found = self._variants.get(key)
        if found is None:
            options = self.machine.options
            asked = None if self.traits.warp_level else options.width
            options = replace(options, width=asked or choose_width(self.traits, block))
            source = self.module.source
            with _COMPILING, source.refusing(self.name):
                native = native_code(source, self.name, Launch(block, small_grid, options))
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
