"""The device `virtual`: kernels run on the CPU, through the PTX machine of `nnkit.vm`.

Its memory is the host's, so arrays are NumPy arrays underneath; a launch returns when the kernel is done.
"""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from nnkit.contracts import Dimensions, Operations, Stream, SupportsDlpack
from nnkit.device.arrays import dlpack, foreign
from nnkit.device.arrays.inputs import array_type, host_values, ptx_text
from nnkit.device.bound import Bound
from nnkit.device.host.array import CpuArray
from nnkit.device.host.streams import HostEvent, HostStream
from nnkit.device.kernels.arguments import Packer
from nnkit.device.kernels.elements import ElementTypes
from nnkit.device.kernels.extents import Limits, check_extents
from nnkit.device.kernels.parameters import parameters, required_blocks, thread_limits
from nnkit.device.kernels.variables import Variables, VariableTable, described
from nnkit.device.names.demangle import demangle, readable
from nnkit.device.names.kernels import UNNAMED, KernelTable, variables
from nnkit.device.source.excerpts import with_source
from nnkit.device.virtual.array import OfModule, Owner, VirtualArray
from nnkit.errors import (
    CompileError,
    DeviceError,
    DeviceMemoryError,
    KernelError,
    LaunchError,
    NnkitError,
    UsageError,
)
from nnkit.ptx.interface import Interface
from nnkit.ptx.ir import PtxError, Variable
from nnkit.vm.analysis import settings
from nnkit.vm.build import store
from nnkit.vm.run.faults import KernelFault
from nnkit.vm.run.machine import Machine
from nnkit.vm.run.memory_table import READ_ONLY
from nnkit.vm.run.module import LoadedKernel, LoadedModule
from nnkit.vm.text.layout import Fault

if TYPE_CHECKING:
    from nnkit.device.compile import Origin

ARCH = "compute_100"
"""What source is compiled for unless asked otherwise: for 7.5 to 9.0 NVRTC 13.5 makes wrong code of some.

tests/device/test_nvrtc_probes.py holds such sources.
"""

SHARED_BYTES = 227 * 1024
"""The most shared memory of a block, static and dynamic: that of compute capability 9.0 and 10.0."""

CACHE_BYTES = 256 * 1024 * 1024

MEMORY_FAULTS = frozenset({Fault.MEMORY, Fault.MISALIGNED, Fault.READ_ONLY})


class VirtualKernel(Bound):
    """`nnkit.contracts.Kernel` on the PTX machine."""

    def __init__(
        self,
        device: "VirtualDevice",
        kernel: LoadedKernel,
        packer: Packer[VirtualArray],
        limits: Limits,
        origin: "Origin | None" = None,
    ):
        self.name = kernel.name
        self._origin = origin
        self._device = device
        self._kernel = kernel
        self._packer = packer
        # Its buffer is one for all launches, and several threads may launch.
        self._packing = threading.Lock()
        self._limits = replace(limits, shared_bytes=SHARED_BYTES - kernel.traits.static_shared)

    def __repr__(self) -> str:
        return f"<kernel {self._packer!r} on virtual>"

    def launch(
        self,
        grid: Dimensions,
        block: Dimensions,
        args: Sequence[Any] = (),
        shared_bytes: int = 0,
        stream: Stream | None = None,
    ) -> None:
        """Run it over grid x block threads and wait. See `nnkit.contracts.Kernel.launch`."""
        if self._device.closed:
            self._device.check_open()
        if stream is not None and not isinstance(stream, HostStream):
            raise LaunchError(
                f"kernel {self._packer.kernel}: stream is not of this device; make it with device.stream()"
            )
        blocks, threads = check_extents(self._packer.kernel, grid, block, shared_bytes, self._limits)
        with self._packing:
            packed = bytes(self._packer.pack(args, self._device))
            # Arrays of other libraries are the device's for as long as this lives.
            borrowed = self._packer.take_borrowed()
        translate(lambda: self._kernel.launch(blocks, threads, packed, shared_bytes), self._origin)
        del borrowed


class VirtualModule(Bound):
    """`nnkit.contracts.Module` on the PTX machine."""

    def __init__(self, device: "VirtualDevice", loaded: LoadedModule, origin: "Origin | None" = None):
        self._device = device
        self._loaded = loaded
        self._origin = origin
        ptx, source = loaded.source.ptx, origin.declared if origin else None
        self.interface = Interface(ptx)
        declared = parameters(self.interface, loaded.kernels)
        most, required = thread_limits(self.interface), required_blocks(self.interface)

        def make(name: str) -> VirtualKernel:
            if name in loaded.refused:
                raise _explained(CompileError(readable(loaded.refused[name])), origin)
            elements = ElementTypes(name, declared[name], ptx, source, lambda: loaded.source.module)
            packer: Packer[VirtualArray] = Packer(demangle(name), declared[name], elements)
            limits = Limits(threads=most.get(name, Limits.threads), required=required.get(name))
            return VirtualKernel(device, loaded.kernels[name], packer, limits, origin)

        self._kernels = KernelTable(
            (*declared, *loaded.refused),
            make,
            self._instantiate if origin else None,
            origin.templates if origin else (),
        )

    @property
    def kernels(self) -> tuple[str, ...]:
        """What its kernels are called in the source, with their parameters; extern "C" ones without."""
        return self._kernels.names

    def __getitem__(self, name: str) -> VirtualKernel:
        """The kernel of that name; see `nnkit.contracts.Module`."""
        return self._kernels[name]

    @cached_property
    def _table(self) -> VariableTable:
        source = self._origin.declared if self._origin else None
        return VariableTable(self._loaded.source.outline.variables, source)

    @property
    def variables(self) -> Variables[VirtualArray]:
        """Its variables as arrays; see `nnkit.contracts.Module`."""

        def make(variable: Variable, shape: tuple[int, ...], dtype: np.dtype[Any]) -> VirtualArray:
            allocation = self._loaded.variables[variable.name]
            host = allocation.owner.view(dtype).reshape(shape)
            return VirtualArray(self._device, host, OfModule(allocation, self))

        return Variables(self._table, make)

    def __repr__(self) -> str:
        return described(self, "virtual", self._kernels.templates)

    def _instantiate(self, expression: str) -> tuple[str, Callable[[str], VirtualKernel]]:
        """More kernels of the same source; they use the same variables."""
        assert self._origin is not None
        name, compiled = self._origin.instantiate(expression)
        machine = self._device.machine
        # Strings and other constants that have no name in the source are numbered anew each time.
        variables = {
            name: memory for name, memory in self._loaded.variables.items() if not UNNAMED.match(name)
        }
        loaded = translate(lambda: machine.load(compiled.ptx, variables))
        loaded.lender = self._loaded
        more = VirtualModule(self._device, loaded, self._origin)
        return name, more.__getitem__


class VirtualDevice(Bound):
    """`nnkit.contracts.Device` on the CPU. NNKIT_THREADS says how many threads share a grid's blocks."""

    name = "virtual"

    def __init__(self, width: int | None = None, threads: int | None = None):
        """`width` is the number of lanes that run together (16 unless a kernel needs warps), for tests."""
        try:
            self.machine = Machine(threads, settings.options(width))
        except ValueError as error:
            raise UsageError(str(error)) from None
        self.closed = False
        self._modules: dict[tuple[str, Origin | None], VirtualModule] = {}
        _use_cache()

    @property
    def threads(self) -> int:
        """How many threads share a grid's blocks."""
        return self.machine.threads

    @cached_property
    def operations(self) -> Operations[VirtualArray]:
        """The operations of a training step; their kernels are compiled when first used."""
        from nnkit.device.kernel_operations import KernelOperations

        return KernelOperations(self)

    def empty(self, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> VirtualArray:
        """An array of unspecified content; raises DeviceError when the host has no room."""
        self.check_open()
        shape, element = array_type(shape, dtype)
        size = math.prod(shape) * element.itemsize
        label = f"an array of shape {shape} {element}"
        try:
            allocation = self.machine.memory.allocate(size, label)
        except MemoryError:
            raise DeviceError(
                f"no memory for an array of {size} bytes: use smaller arrays, or free some"
            ) from None
        host = allocation.owner.view(element).reshape(shape) if size else np.empty(shape, element)
        return VirtualArray(self, host, Owner(self.machine.memory, allocation))

    def zeros(self, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> VirtualArray:
        """An array of zeros."""
        array = self.empty(shape, dtype)
        array.host[...] = np.zeros((), array.dtype)
        return array

    def upload(self, host: npt.ArrayLike) -> VirtualArray:
        """A row-major copy, in the machine's byte order."""
        values = host_values(host)
        array = self.empty(values.shape, values.dtype)
        array.host[...] = values
        return array

    def from_dlpack(self, lender: SupportsDlpack) -> VirtualArray:
        """An array on memory that another library lends, shared where it is row-major; see the contract."""
        self.check_open()
        return self._adopted(dlpack.host_array(lender))

    def borrow(self, argument: object) -> VirtualArray | None:
        """A kernel's argument that is an array of another library, in its place; None if it is none.

        Raises UsageError for one that no kernel can take.
        """
        if foreign.lends_host_memory(argument):
            return self._adopted(foreign.host_memory(argument))
        if foreign.lends_gpu_memory(argument):
            raise UsageError("which lies in the memory of a GPU: copy it to the host first")
        if foreign.lends_dlpack(argument) and not isinstance(argument, CpuArray):
            raise UsageError("which device.from_dlpack(array) shares with this device")
        return None

    def _adopted(self, values: npt.NDArray[Any]) -> VirtualArray:
        """An array on memory that is not the device's."""
        flags = 0 if values.flags.writeable else READ_ONLY
        label = f"an array of shape {values.shape} {values.dtype} in the program's own memory"
        memory = self.machine.memory
        allocation = memory.adopt(values.reshape(-1).view(np.uint8), label, flags)
        return VirtualArray(self, values, Owner(memory, allocation))

    def compile(
        self,
        source: str | PathLike[str],
        name: str = "kernel.cu",
        options: Sequence[str] = (),
        arch: str | None = None,
    ) -> VirtualModule:
        """Compile CUDA C++ to PTX and load that; see `nnkit.contracts.Device.compile`."""
        from nnkit.device.compile import Origin, compile_cuda, read_source

        self.check_open()
        arch = ARCH if arch is None else arch
        ptx = compile_cuda(source, name, options, arch).ptx
        return self._module(ptx, Origin(*read_source(source, name), tuple(options), arch))

    def load_ptx(self, ptx: str | bytes | PathLike[str]) -> VirtualModule:
        """Load PTX, text or a path. Raises CompileError, which names the line, for text that is not PTX.

        What the machine does not know is refused when a kernel that needs it is asked for; here only if there
        is no other kernel.
        """
        self.check_open()
        return self._module(ptx_text(ptx), None)

    def stream(self) -> HostStream:
        """A new stream: launches are done when they return, so it only keeps the program's form."""
        self.check_open()
        return HostStream()

    def event(self) -> HostEvent:
        """A new event, not yet recorded."""
        self.check_open()
        return HostEvent()

    def synchronize(self) -> None:
        """Every launch is done already."""
        self.check_open()

    def close(self) -> None:
        """Give the modules and the threads back; a second call does nothing."""
        self.closed = True
        self._modules.clear()
        self.machine.close()

    def check_open(self) -> None:
        """Raises DeviceError once the device is closed."""
        if self.closed:
            raise DeviceError("the device virtual is closed: open it again with nnkit.open_device")

    def _module(self, ptx: str, origin: "Origin | None") -> VirtualModule:
        """A module of that PTX: with variables of its own if it has any, else loaded once."""
        # Two sources may give the same PTX, and yet declare other types.
        module = self._modules.get((ptx, origin))
        if module is None:
            loaded = translate(lambda: self.machine.load(ptx), origin)
            module = VirtualModule(self, loaded, origin)
            # What has no name in the source, such as the text of a printf, is never written.
            if not (variables(module.interface) if origin else loaded.variables):
                self._modules[ptx, origin] = module
        return module

    def __repr__(self) -> str:
        return f"VirtualDevice(threads={self.threads})"


Result = TypeVar("Result")


def translate(action: Callable[[], Result], origin: "Origin | None" = None) -> Result:
    """Run the action; the machine's errors become nnkit's, with the lines of the source that they name."""
    try:
        return action()
    except PtxError as error:
        raise _explained(CompileError(readable(str(error))), origin) from error.__cause__
    except KernelFault as error:
        kind = DeviceMemoryError if error.fault.kind in MEMORY_FAULTS else KernelError
        raise _explained(kind(readable(str(error)), error.fault), origin) from None
    except MemoryError:
        raise DeviceError(
            "no memory left for the kernel: its variables, or its threads: use fewer, in NNKIT_THREADS"
        ) from None


def _explained(error: NnkitError, origin: "Origin | None") -> NnkitError:
    return error if origin is None else with_source(error, origin.name, origin.text)


def _use_cache() -> None:
    """Keep on disk what the machine makes, beside the PTX."""
    from nnkit.device.cache.disk import DiskCache

    store.store = DiskCache("native", CACHE_BYTES)
