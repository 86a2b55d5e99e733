"""One GPU: its context, its memory and its properties, which the objects of a device work with."""

from dataclasses import dataclass

from nnkit.device.cuda import driver as cuda_driver
from nnkit.device.cuda.driver import Context
from nnkit.device.cuda.memory import Pool, Staging
from nnkit.errors import DeviceError


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


@dataclass(frozen=True)
class Gpu:
    """The parts of a device `cuda`: put together here, and handed to its arrays, modules and kernels."""

    ordinal: int
    label: str
    """What nnkit calls it, such as "cuda:0"."""
    context: Context
    properties: GpuProperties
    pool: Pool
    staging: Staging

    @classmethod
    def open(cls, ordinal: int | None, turn: int) -> "Gpu":
        """The GPU of that number, else of that `turn`: see `CudaDevice`. Raises DeviceError without one."""
        driver = cuda_driver.load()
        count = cuda_driver.check(driver.cuDeviceGetCount(), "counting GPUs")
        if ordinal is None:
            ordinal = turn % max(count, 1)
        if not 0 <= ordinal < count:
            there = ", ".join(f"cuda:{number}" for number in range(count)) or "none"
            raise DeviceError(f"no device cuda:{ordinal}: there is no GPU of that number; there are: {there}")
        label = f"cuda:{ordinal}"
        context = Context(driver, ordinal, label)
        return cls(ordinal, label, context, _properties(context), Pool(context), Staging(context))

    def close(self) -> None:
        """Give everything back."""
        self.staging.close()
        self.pool.close()
        self.context.close()


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
