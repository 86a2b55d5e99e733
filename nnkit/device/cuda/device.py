"""The device `cuda`: one GPU through the CUDA driver API."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING

import numpy.typing as npt

from nnkit.contracts import Operations, SupportsDlpack
from nnkit.device.arrays import dlpack, foreign
from nnkit.device.arrays.inputs import array_type, host_values, ptx_text
from nnkit.device.bound import Bound
from nnkit.device.cuda import driver as cuda_driver
from nnkit.device.cuda.array import CudaArray, Foreign
from nnkit.device.cuda.driver import Context
from nnkit.device.cuda.launch import CudaModule, native_arch
from nnkit.device.cuda.memory import Pool, Staging
from nnkit.device.cuda.stream import CudaEvent, CudaStream
from nnkit.device.names.kernels import variables
from nnkit.errors import DeviceError, UsageError

if TYPE_CHECKING:
    from nnkit.device.compile import Origin


@dataclass(frozen=True)
class GpuProperties:
    """What the driver says about a GPU."""

    description: str
    """The product's name."""
    capability: tuple[int, int]
    """The compute capability, such as (9, 0)."""
    multiprocessors: int
    clock_mhz: float
    """The highest clock of the multiprocessors."""
    memory_bytes: int
    memory_clock_mhz: float
    memory_bus_bits: int
    l2_bytes: int
    shared_bytes: int
    """The most shared memory that a block can ask for."""
    driver: str
    """The CUDA version that the driver supports."""


class CudaDevice(Bound):
    """`nnkit.contracts.Device` on the GPU of that number, counted as CUDA_VISIBLE_DEVICES leaves them.

    Without a number it is the GPU of that `turn`: processes that take theirs in turn share them evenly.
    Launches return at once and run in order; so do copies. Raises DeviceError when there is no such GPU, no
    driver, or one that is too old.
    """

    name = "cuda"

    def __init__(self, ordinal: int | None = None, turn: int = 0):
        driver = cuda_driver.load()
        count = cuda_driver.check(driver.cuDeviceGetCount(), "counting GPUs")
        if ordinal is None:
            ordinal = turn % max(count, 1)
        if not 0 <= ordinal < count:
            there = ", ".join(f"cuda:{number}" for number in range(count)) or "none"
            raise DeviceError(f"no device cuda:{ordinal}: there is no GPU of that number; there are: {there}")
        self.ordinal = ordinal
        self.label = f"cuda:{ordinal}"
        self.context = Context(driver, ordinal, self.label)
        self.properties = _properties(self.context)
        self.pool = Pool(self.context)
        self.staging = Staging(self.context)
        self._modules: dict[tuple[bytes, str, Origin | None], CudaModule] = {}
        self._with_variables: list[CudaModule] = []

    @property
    def description(self) -> str:
        """The product's name."""
        return self.properties.description

    @property
    def capability(self) -> tuple[int, int]:
        """The compute capability, such as (9, 0)."""
        return self.properties.capability

    @cached_property
    def operations(self) -> Operations[CudaArray]:
        """The operations of a training step; their kernels are compiled when first used."""
        from nnkit.device.kernel_operations import KernelOperations

        return KernelOperations(self)

    def empty(self, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> CudaArray:
        """An array of unspecified content; raises DeviceError when the GPU has no room."""
        self.context.activate()
        shape, element = array_type(shape, dtype)
        block = self.pool.take(math.prod(shape) * element.itemsize)
        return CudaArray(self, block, block.address, shape, element)

    def zeros(self, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> CudaArray:
        """An array of zeros."""
        array = self.empty(shape, dtype)
        if array.nbytes:
            context = self.context
            context.call(
                *("cuMemsetD8Async", array.address, 0, array.nbytes, context.stream), doing="writing zeros"
            )
        return array

    def upload(self, host: npt.ArrayLike) -> CudaArray:
        """A row-major copy, in the machine's byte order."""
        values = host_values(host)
        array = self.empty(values.shape, values.dtype)
        array.write(values)
        return array

    def from_dlpack(self, lender: SupportsDlpack) -> CudaArray:
        """An array on memory of this GPU that another library lends; other memory is copied.

        What is lent to be read alone is copied, for nobody keeps a kernel from writing to it.
        """
        self.context.activate()
        kind, ordinal = dlpack.device_of(lender)
        if kind in dlpack.HOST:
            return self.upload(dlpack.host_array(lender))
        if (kind, ordinal) != (dlpack.CUDA, self.ordinal):
            raise UsageError(
                f"{type(lender).__name__} does not lie in the memory of {self.label}: copy it there"
            )
        tensor = dlpack.Tensor(lender, int(self.context.stream))
        array = CudaArray(self, Foreign(tensor), tensor.address, tensor.shape, tensor.dtype)
        return array.copy() if tensor.read_only else array

    def borrow(self, argument: object) -> CudaArray | None:
        """A kernel's argument that is an array of another library, in its place; None if it is none.

        Raises UsageError for one that no kernel can take.
        """
        if not foreign.lends_gpu_memory(argument):
            if foreign.lends_dlpack(argument) and not foreign.lends_host_memory(argument):
                raise UsageError("which device.from_dlpack(array) brings to this device")
            return None
        memory = foreign.gpu_memory(argument)
        if memory.read_only:
            raise UsageError("which may only be read: give a copy, device.from_dlpack(array).copy()")
        context = self.context
        if math.prod(memory.shape):
            ordinal = context.driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
            context.activate()
            code, place = context.driver.cuPointerGetAttribute(ordinal, memory.address)
            if code or place != self.ordinal:
                raise UsageError(f"which does not lie in the memory of {self.label}: copy it there")
        if memory.stream not in (0, int(context.stream)):
            context.call("cuStreamSynchronize", memory.stream, doing="waiting for another library's stream")
        return CudaArray(self, Foreign(argument), memory.address, memory.shape, memory.dtype)

    def compile(
        self,
        source: str | PathLike[str],
        name: str = "kernel.cu",
        options: Sequence[str] = (),
        arch: str | None = None,
    ) -> CudaModule:
        """Compile CUDA C++, by default to this GPU's machine code; see `nnkit.contracts.Device.compile`."""
        from nnkit.device.compile import Origin, compile_cuda, read_source

        arch = self._arch if arch is None else arch
        compiled = compile_cuda(source, name, options, arch)
        origin = Origin(*read_source(source, name), tuple(options), arch)
        return self._module(compiled.cubin or compiled.ptx.encode(), compiled.ptx, origin)

    def load_ptx(self, ptx: str | bytes | PathLike[str]) -> CudaModule:
        """Load PTX, text or a path, which the driver assembles; raises CompileError with its log."""
        text = ptx_text(ptx)
        return self._module(text.encode(), text)

    def stream(self) -> CudaStream:
        """A new stream, ordered with the default one."""
        return CudaStream(self.context, self.pool)

    def event(self) -> CudaEvent:
        """A new event, not yet recorded."""
        return CudaEvent(self.context)

    def synchronize(self) -> None:
        """Wait until every launch is done; raises what a kernel did wrong."""
        self.context.synchronize()

    def close(self) -> None:
        """Wait, and give everything back; a second call does nothing.

        Errors of kernels that nobody waited for are not raised: whoever wants their results has waited.
        """
        if self.context.closed:
            return
        driver = self.context.driver
        driver.cuCtxSetCurrent(self.context.handle)
        driver.cuCtxSynchronize()
        for module in (*self._modules.values(), *self._with_variables):
            module.close()
        self._modules.clear()
        self._with_variables.clear()
        self.staging.close()
        self.pool.close()
        self.context.close()

    def _module(self, image: bytes, ptx: str, origin: "Origin | None" = None) -> CudaModule:
        """A module of that image: with variables of its own if it has any, else loaded once.

        It stays loaded until the device is closed: a kernel that nobody waited for may still run.
        """
        # Two sources may give the same code, and yet declare other types.
        module = self._modules.get((image, ptx, origin))
        if module is None:
            module = CudaModule(self, image, ptx, origin)
            if variables(module.interface):
                self._with_variables.append(module)
            else:
                self._modules[image, ptx, origin] = module
        return module

    @cached_property
    def _arch(self) -> str:
        from cuda.bindings import nvrtc

        return native_arch(self.capability, nvrtc.nvrtcGetSupportedArchs()[1])

    def __repr__(self) -> str:
        return f"CudaDevice({self.label}, {self.description})"


def _properties(context: Context) -> GpuProperties:
    doing = "asking about the GPU"

    def ask(name: str) -> int:
        attribute = getattr(context.driver.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(context.call("cuDeviceGetAttribute", attribute, context.device, doing=doing))

    name = context.call("cuDeviceGetName", 256, context.device, doing=doing)
    version = context.call("cuDriverGetVersion", doing=doing)
    return GpuProperties(
        description=name.split(b"\0", 1)[0].decode(errors="replace").strip(),
        capability=(ask("COMPUTE_CAPABILITY_MAJOR"), ask("COMPUTE_CAPABILITY_MINOR")),
        multiprocessors=ask("MULTIPROCESSOR_COUNT"),
        clock_mhz=ask("CLOCK_RATE") / 1000,
        memory_bytes=int(context.call("cuDeviceTotalMem", context.device, doing=doing)),
        memory_clock_mhz=ask("MEMORY_CLOCK_RATE") / 1000,
        memory_bus_bits=ask("GLOBAL_MEMORY_BUS_WIDTH"),
        l2_bytes=ask("L2_CACHE_SIZE"),
        shared_bytes=ask("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN"),
        driver=cuda_driver.dotted(version),
    )
