"""Modules in memory and their kernels: each is compiled for every kind of launch, and the code is kept."""

import ctypes
import os
import threading
import weakref
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from nnkit.ptx.ir import PtxError
from nnkit.vm.analysis.geometry import SMALL_GRID, Launch
from nnkit.vm.build.native import native_code
from nnkit.vm.build.source import Outline, Source
from nnkit.vm.prepare.program import Traits, choose_width
from nnkit.vm.run.host import Host
from nnkit.vm.run.kernel import Kernel
from nnkit.vm.run.launch import Run
from nnkit.vm.run.memory_table import READ_ONLY, Allocation, MemoryTable
from nnkit.vm.run.variant import Variant

Variants = dict[tuple[str, tuple[int, int, int], bool], Variant]
"""By kernel, block, and whether the grid is small."""

_COMPILING = threading.Lock()
"""LLVM is entered by one thread at a time."""


class LoadedModule:
    """A module's kernels and its variables in memory."""

    def __init__(self, host: Host, source: Source, variants: Variants, shared: Mapping[str, Allocation]):
        """`variants` are those of all modules of one text.

        `shared` holds variables of another module (`lender`), to use in place of own ones.
        """
        self.host = host
        self.source = source
        self.variants = variants
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
            allocation = host.memory.allocate(variable.size, label, flags)
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
        weakref.finalize(self, _free, host.memory, self._own())

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
        _free(self.host.memory, self._own())

    def _own(self) -> list[Allocation]:
        return [allocation for name, allocation in self.variables.items() if name not in self._shared]


class LoadedKernel(Kernel):
    """A kernel that can be launched."""

    def __init__(self, module: LoadedModule, name: str, traits: Traits):
        super().__init__(module.host, name, traits, module.addresses)
        self.module = module

    def variant(self, block: tuple[int, int, int], small_grid: bool) -> Variant:
        """The code for a block's shape; compiled, or fetched from the cache, when it is first needed."""
        key = (self.name, block, small_grid)
        found = self.module.variants.get(key)
        if found is None:
            options = self.host.options
            asked = None if self.traits.warp_level else options.width
            options = replace(options, width=asked or choose_width(self.traits, block))
            source = self.module.source
            with _COMPILING, source.refusing(self.name):
                native = native_code(source, self.name, Launch(block, small_grid, options))
                found = self.module.variants[key] = Variant(native)
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


def _free(memory: MemoryTable, allocations: list[Allocation]) -> None:
    for allocation in allocations:
        memory.free(allocation)


def _host_memory() -> int:
    """Bytes of the host's memory: it hands out more, and ends processes that use it."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
