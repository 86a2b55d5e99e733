"""Kernels on a GPU: machine code loaded into the context, and the launch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from nnkit.contracts import Device, Dimensions, Stream
from nnkit.device.bound import Bound
from nnkit.device.cuda.array import CudaArray, Foreign
from nnkit.device.cuda.driver import Context
from nnkit.device.cuda.gpu import Gpu
from nnkit.device.cuda.stream import CudaStream
from nnkit.device.kernels.arguments import Packer
from nnkit.device.kernels.converters import Borrower
from nnkit.device.kernels.elements import ElementTypes
from nnkit.device.kernels.extents import Extent, Limits, check_extents
from nnkit.device.kernels.parameters import parameters, required_blocks
from nnkit.device.kernels.variables import Variables, VariableTable, described
from nnkit.device.names.demangle import demangle
from nnkit.device.names.kernels import KernelTable, variables
from nnkit.errors import CompileError, DeviceError, LaunchError, UsageError
from nnkit.ptx.interface import Interface
from nnkit.ptx.ir import PtxError, Variable
from nnkit.ptx.parse import parse

if TYPE_CHECKING:
    from nnkit.device.compile import Origin

LOG_BYTES = 16 * 1024
"""How much the driver's assembler may say about PTX that it refuses."""

UNASKED_SHARED_BYTES = 48 * 1024
"""Shared memory, static and dynamic, that a block gets without the kernel asking for more."""


def native_arch(capability: tuple[int, int], supported: Sequence[int]) -> str:
    """What to compile for: the GPU's own code if NVRTC makes it, else the newest PTX that the GPU can run.

    `supported` is what NVRTC knows, as 90 for 9.0. For a GPU older than all of them it is the GPU's own all
    the same, which the compiler then refuses with its list.
    """
    own = 10 * capability[0] + capability[1]
    older = [arch for arch in supported if arch < own]
    return f"sm_{own}" if own in supported or not older else f"compute_{max(older)}"


@dataclass(frozen=True)
class KernelAttributes:
    """What a kernel needs of the GPU, as the driver tells it; bytes for each block or thread."""

    registers: int
    """Registers of a thread."""
    shared_bytes: int
    """Static shared memory of a block."""
    constant_bytes: int
    local_bytes: int
    """Local memory of a thread: spilled registers and arrays that are indexed."""
    max_threads: int
    """The most threads of a block, as registers and __launch_bounds__ allow."""


class LaunchingDevice(Device[CudaArray], Borrower[CudaArray], Protocol):
    """What modules and kernels ask of their device: arrays are its own, or are borrowed by it."""


class CudaModule(Bound):
    """`nnkit.contracts.Module`: an image (a cubin, or PTX that the driver assembles) in the GPU's context.

    Raises CompileError with the assembler's log for an image that the driver refuses.
    """

    def __init__(
        self, device: LaunchingDevice, gpu: Gpu, image: bytes, ptx: str, origin: "Origin | None" = None
    ):
        self._device = device
        self._gpu = gpu
        self._origin = origin
        self._ptx = ptx
        self.interface = Interface(ptx)
        self._parameters = parameters(self.interface)
        self._required = required_blocks(self.interface)
        self._kernels = KernelTable(
            tuple(self._parameters),
            self._make,
            self._instantiate if origin else None,
            origin.templates if origin else (),
        )
        self._more: list[CudaModule] = []
        self._handle = _load(gpu.context, image)

    @property
    def kernels(self) -> tuple[str, ...]:
        """What its kernels are called in the source, with their parameters; extern "C" ones without."""
        return self._kernels.names

    def __getitem__(self, name: str) -> "CudaKernel":
        """The kernel of that name; see `nnkit.contracts.Module`."""
        return self._kernels[name]

    @cached_property
    def _table(self) -> VariableTable:
        try:
            declared = parse(self._ptx).variables.values()
        except PtxError as error:
            # What the driver's assembler takes may still be more than is understood here.
            raise CompileError(f"the module's variables cannot be told: {error}") from None
        return VariableTable(declared, self._origin.declared if self._origin else None)

    @property
    def variables(self) -> "Variables[CudaArray]":
        """Its variables as arrays; see `nnkit.contracts.Module`."""

        def make(variable: Variable, shape: tuple[int, ...], dtype: "np.dtype[Any]") -> CudaArray:
            doing = f"looking up variable {variable.name}"
            call = self._gpu.context.call
            address, size = call("cuModuleGetGlobal", self._handle, variable.name.encode(), doing=doing)
            if size != variable.size:
                raise DeviceError(f"{doing}: the driver says that it has {size} bytes, not {variable.size}")
            return CudaArray(self._device, self._gpu, Foreign(self), int(address), shape, dtype)

        return Variables(self._table, make)

    def _make(self, name: str) -> "CudaKernel":
        function = self._gpu.context.call(
            "cuModuleGetFunction", self._handle, name.encode(), doing=f"looking up kernel {name}"
        )
        declared, source = self._parameters[name], self._origin.declared if self._origin else None
        elements = ElementTypes(name, declared, self._ptx, source)
        packer: Packer[CudaArray] = Packer(demangle(name), declared, elements)
        return CudaKernel(self._device, self._gpu, name, function, packer, self._required.get(name))

    def __repr__(self) -> str:
        return described(self, self._gpu.label, self._kernels.templates)

    def _instantiate(self, expression: str) -> "tuple[str, Callable[[str], CudaKernel]]":
        """More kernels of the same source, in an image of their own."""
        assert self._origin is not None
        name, compiled = self._origin.instantiate(expression)
        if name in self._parameters:
            return name, self._make
        if own := variables(self.interface):
            raise UsageError(
                f"kernel {expression!r} would not see the module's variables ({', '.join(own[:3])}), because"
                " it is compiled only now: instantiate it in the source, with `template __global__ void ...;`"
            )
        more = CudaModule(
            self._device, self._gpu, compiled.cubin or compiled.ptx.encode(), compiled.ptx, self._origin
        )
        self._more.append(more)
        return name, more.__getitem__

    def close(self) -> None:
        """Unload it; errors are ignored."""
        for more in self._more:
            more.close()
        self._gpu.context.driver.cuModuleUnload(self._handle)


def _load(context: Context, image: bytes) -> Any:
    option = context.driver.CUjit_option
    log = bytearray(LOG_BYTES)
    # The driver reads PTX up to a zero byte.
    context.activate()
    result = context.driver.cuModuleLoadDataEx(
        image + b"\0",
        2,
        [option.CU_JIT_ERROR_LOG_BUFFER, option.CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES],
        [log, LOG_BYTES],
    )
    try:
        return context.check(result, "loading a module")
    except CompileError as error:
        said = bytes(log).split(b"\0", 1)[0].decode(errors="replace").strip()
        raise CompileError(f"{error}\n{said}" if said else str(error)) from None


class CudaKernel(Bound):
    """`nnkit.contracts.Kernel` on a GPU."""

    def __init__(
        self,
        device: LaunchingDevice,
        gpu: Gpu,
        name: str,
        function: Any,
        packer: Packer[CudaArray],
        required: Extent | None,
    ) -> None:
        self.name = name
        self._device = device
        self._context = gpu.context
        self._function = function
        self._launch = gpu.context.driver.cuLaunchKernel
        self._packer = packer
        self.attributes = self._read_attributes()
        static = self.attributes.shared_bytes
        self._limits = Limits(
            threads=self.attributes.max_threads,
            shared_bytes=gpu.properties.shared_bytes - static,
            required=required,
        )
        self._shared_bytes = UNASKED_SHARED_BYTES - static
        """How much dynamic shared memory a launch may have at present."""

    def __repr__(self) -> str:
        return f"<kernel {self._packer!r} on {self._context.name}>"

    def launch(
        self,
        grid: Dimensions,
        block: Dimensions,
        args: Sequence[Any] = (),
        shared_bytes: int = 0,
        stream: Stream | None = None,
    ) -> None:
        """Run it over grid x block threads; returns at once.

        Raises LaunchError for a wrong argument or extent. What goes wrong while the kernel runs is raised by
        the next call that waits for it.
        """
        context = self._context
        (gx, gy, gz), (bx, by, bz) = check_extents(
            self._packer.kernel, grid, block, shared_bytes, self._limits
        )
        context.activate()
        self._packer.pack(args, self._device)
        if shared_bytes > self._shared_bytes:
            self._allow(shared_bytes)
        queue = context.stream if stream is None else self._queue(stream)
        pointers = self._packer.pointers
        result = self._launch(self._function, gx, gy, gz, bx, by, bz, shared_bytes, queue, pointers, 0)
        if result[0]:
            context.check(result, f"launching kernel {self._packer.kernel}")
        context.pending[self._packer.kernel] = None
        for array in self._packer.take_borrowed():
            context.lent[id(array.lender)] = array

    def _queue(self, stream: Stream) -> Any:
        if not isinstance(stream, CudaStream) or stream.context is not self._context:
            raise LaunchError(
                f"kernel {self._packer.kernel}: stream is not of this device; make it with device.stream()"
            )
        return stream.handle

    def _allow(self, shared_bytes: int) -> None:
        """Above 48 KiB a kernel must ask for its shared memory (CUDA programming guide, 9.x capabilities)."""
        attribute = self._context.driver.CUfunction_attribute
        self._context.call(
            "cuFuncSetAttribute",
            self._function,
            attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
            shared_bytes,
            doing=f"asking for {shared_bytes} bytes of shared memory for kernel {self._packer.kernel}",
        )
        self._shared_bytes = shared_bytes

    def _read_attributes(self) -> KernelAttributes:
        names = ("NUM_REGS", "SHARED_SIZE_BYTES", "CONST_SIZE_BYTES", "LOCAL_SIZE_BYTES")
        known = self._context.driver.CUfunction_attribute
        values = [
            self._context.call(
                "cuFuncGetAttribute",
                getattr(known, f"CU_FUNC_ATTRIBUTE_{name}"),
                self._function,
                doing=f"asking about kernel {self._packer.kernel}",
            )
            for name in (*names, "MAX_THREADS_PER_BLOCK")
        ]
        return KernelAttributes(*values)
