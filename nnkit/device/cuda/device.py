"""The device `cuda`: one GPU through the CUDA driver API."""

import math
from collections.abc import Sequence
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING

import numpy.typing as npt

from nnkit.contracts import Operations, SupportsDlpack
from nnkit.device.arrays import dlpack, foreign
from nnkit.device.arrays.inputs import array_type, host_values, ptx_text
from nnkit.device.bound import Bound
from nnkit.device.cuda.array import CudaArray, Foreign
from nnkit.device.cuda.gpu import Gpu, GpuProperties
from nnkit.device.cuda.launch import CudaModule, native_arch
from nnkit.device.cuda.stream import CudaEvent, CudaStream
from nnkit.device.names.kernels import variables
from nnkit.errors import UsageError

if TYPE_CHECKING:
    from nnkit.device.compile import Origin


class CudaDevice(Bound):
    """`nnkit.contracts.Device` on the GPU of that number, counted as CUDA_VISIBLE_DEVICES leaves them.

    Without a number it is the GPU of that `turn`: processes that take theirs in turn share them evenly.
    Launches return at once and run in order; so do copies. Raises DeviceError when there is no such GPU, no
    driver, or one that is too old.
    """

    name = "cuda"

    def __init__(self, ordinal: int | None = None, turn: int = 0):
        self.gpu = Gpu.open(ordinal, turn)
        self.context = self.gpu.context
        self._modules: dict[tuple[bytes, str, Origin | None], CudaModule] = {}
        self._with_variables: list[CudaModule] = []

    @property
    def label(self) -> str:
        """Such as "cuda:0"."""
        return self.gpu.label

    @property
    def properties(self) -> GpuProperties:
        """What the driver says about the GPU."""
        return self.gpu.properties

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
        block = self.gpu.pool.take(math.prod(shape) * element.itemsize)
        return CudaArray(self, self.gpu, block, block.address, shape, element)

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
        if (kind, ordinal) != (dlpack.CUDA, self.gpu.ordinal):
            raise UsageError(
                f"{type(lender).__name__} does not lie in the memory of {self.label}: copy it there"
            )
        tensor = dlpack.Tensor(lender, int(self.context.stream))
        array = CudaArray(self, self.gpu, Foreign(tensor), tensor.address, tensor.shape, tensor.dtype)
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
            if code or place != self.gpu.ordinal:
                raise UsageError(f"which does not lie in the memory of {self.label}: copy it there")
        if memory.stream not in (0, int(context.stream)):
            context.call("cuStreamSynchronize", memory.stream, doing="waiting for another library's stream")
        return CudaArray(self, self.gpu, Foreign(argument), memory.address, memory.shape, memory.dtype)

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
        return CudaStream(self.context, self.gpu.pool)

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
        self.gpu.close()

    def _module(self, image: bytes, ptx: str, origin: "Origin | None" = None) -> CudaModule:
        """A module of that image: with variables of its own if it has any, else loaded once.

        It stays loaded until the device is closed: a kernel that nobody waited for may still run.
        """
        # Two sources may give the same code, and yet declare other types.
        module = self._modules.get((image, ptx, origin))
        if module is None:
            module = CudaModule(self, self.gpu, image, ptx, origin)
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
