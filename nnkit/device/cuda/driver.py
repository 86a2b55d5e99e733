"""The CUDA driver: loaded on first use, every return code turned into an error of nnkit's, and the context.

Source of the codes: the CUDA driver API reference, section "CUresult".
"""

from functools import cache
from typing import Any

from nnkit.errors import (
    CompileError,
    DeviceError,
    DeviceMemoryError,
    KernelError,
    LaunchError,
    NnkitError,
    reason,
)

OLDEST_DRIVER = 13000
"""The oldest CUDA version that the driver must support, as cuDriverGetVersion counts it."""

OUT_OF_MEMORY = 2

_LOAD = {
    2: "there is no memory left: end other programs, or use a smaller batch or network",
    3: "the driver did not start: run nvidia-smi to see why",
    34: "the libcuda found is a stub for linking: put the driver's own libcuda first on LD_LIBRARY_PATH",
    46: "another process has the GPU for itself: wait for it, or choose another with cuda:N",
    100: "there is no GPU: run nvidia-smi, look at CUDA_VISIBLE_DEVICES, or use the device virtual",
    101: "there is no GPU of that number: run nvidia-smi for those that are there",
    802: "the system is not ready for CUDA: on a machine with NVSwitch start nvidia-fabricmanager",
    803: "libcuda and the kernel's driver module have different versions: restart, or install one driver",
    804: "the compatibility package of CUDA does not support this GPU: remove it, or install a newer driver",
    999: "the driver failed: run nvidia-smi; a restart of the machine may help",
}
_CODE = {
    200: "the code is not for this GPU or is damaged: compile it again for this GPU",
    209: "it holds no code for this GPU: compile it for this GPU's architecture",
    218: "the driver's assembler refuses the PTX",
    221: "the driver has no assembler for PTX: compile for the GPU's own architecture, sm_NN",
    222: "the PTX is newer than the driver: update the driver, or compile for the GPU's own sm_NN",
    300: "the PTX is no PTX",
    302: "a symbol is not defined: define every function and variable in this source",
}
_LAUNCH = {
    701: "a block needs more registers or shared memory than there is: make the block smaller",
    720: "the grid is too large for a cooperative launch: make it smaller",
    912: "the cluster is too large: make it smaller",
}
_MEMORY = {
    700: "a kernel read or wrote outside its arrays",
    716: "a kernel read or wrote at an address that is no multiple of the size of what it accessed",
    717: "a kernel used an address of one kind of memory where it needs one of another",
}
_KERNEL = {
    214: "the GPU's memory has an error that cannot be corrected: have the GPU looked at",
    702: "a kernel ran longer than the display driver allows",
    710: "an assertion in a kernel failed; what it says stands above",
    714: "a kernel damaged its call stack or ran out of it",
    715: "a kernel met an illegal instruction or a trap",
    718: "a kernel jumped to where no code is",
    719: "a kernel failed: a trap, or an access outside shared memory",
}
_ELSEWHERE = " on the device virtual the same launch names the source line"

SPOILS_CONTEXT = frozenset(_MEMORY | _KERNEL)
"""The codes after which the process can use the GPU no more."""


@cache
def load() -> Any:
    """The module `cuda.bindings.driver` with the driver started.

    Raises DeviceError if cuda-python, the driver or a GPU is missing, or the driver is too old.
    """
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise DeviceError(
            f"no device cuda: cuda-python is missing ({reason(error)}): pip install cuda-python"
        ) from None
    start(driver)
    return driver


def start(driver: Any) -> None:
    """Start the driver and check its version; raises DeviceError as `load` does."""
    try:
        check(driver.cuInit(0), "no device cuda")
        version = check(driver.cuDriverGetVersion(), "no device cuda")
    except RuntimeError:
        # What the bindings raise when there is no libcuda, or one without a function that they look for.
        raise DeviceError(
            "no device cuda: NVIDIA's driver library is missing or too old: install the driver, version 580 "
            "or later, or use the device virtual"
        ) from None
    if version < OLDEST_DRIVER:
        raise DeviceError(
            f"no device cuda: the driver supports CUDA {dotted(version)}, nnkit needs "
            f"{dotted(OLDEST_DRIVER)}: install a driver of version 580 or later, or use the device virtual"
        )


def dotted(version: int) -> str:
    """A version as the driver counts it, in words: 13.0 for 13000."""
    return f"{version // 1000}.{version % 1000 // 10}"


def check(result: tuple[Any, ...], doing: str) -> Any:
    """What a driver call gave besides its return code: nothing, one value, or a tuple of several.

    `doing` says what was being done, for the error that another code than success is.
    """
    if result[0]:
        raise error_of(result[0], doing)
    if len(result) == 2:
        return result[1]
    return result[1:] if len(result) > 2 else None


def error_of(code: Any, doing: str) -> NnkitError:
    """The error for a return code, one line with its CUDA name, what was being done and what to do."""
    number = int(code)
    name = getattr(code, "name", f"CUDA error {number}")
    tables: tuple[tuple[dict[int, str], type[NnkitError]], ...] = (
        (_LOAD, DeviceError),
        (_CODE, CompileError),
        (_LAUNCH, LaunchError),
        (_MEMORY, DeviceMemoryError),
        (_KERNEL, KernelError),
    )
    for table, kind in tables:
        if number in table:
            return kind(f"{doing}: {name}: {table[number]}")
    return DeviceError(f"{doing}: {name}; the CUDA driver API reference explains it under CUresult")


class Context:
    """The primary context of one GPU: made current for each call, and what went wrong in it.

    Every object of a device holds it, so that after `close` or a failed kernel each says so in one line.
    """

    def __init__(self, driver: Any, ordinal: int, name: str):
        self.driver = driver
        self.name = name
        self.device = check(driver.cuDeviceGet(ordinal), f"opening {name}")
        self.handle = check(driver.cuDevicePrimaryCtxRetain(self.device), f"opening {name}")
        # The legacy stream: copies and launches in it are ordered with each other and with every stream
        # that nnkit makes, and with what other libraries put into their default stream.
        self.stream = driver.CUstream(driver.CU_STREAM_LEGACY)
        self.pending: dict[str, None] = {}
        """The kernels launched since the last synchronisation, in order."""
        self.lent: dict[int, Any] = {}
        """Arrays of other libraries that those kernels may use: they stay until then."""
        self.unusable = ""
        """Why no call is possible any more; empty while all is well."""
        self.closed = False

    def activate(self) -> None:
        """Make the context current in this thread; raises DeviceError if it is closed or broken.

        Other libraries and other devices of the process change what is current, so this comes before every
        call: it costs 0.2 microseconds.
        """
        if self.unusable:
            raise DeviceError(self.unusable)
        result = self.driver.cuCtxSetCurrent(self.handle)
        if result[0]:
            self.check(result, "making it current")

    def call(self, function: str, *arguments: Any, doing: str) -> Any:
        """Activate, call the driver's function, check."""
        self.activate()
        return self.check(getattr(self.driver, function)(*arguments), doing)

    def check(self, result: tuple[Any, ...], doing: str) -> Any:
        """As the function `check`; an error of a kernel names those that may have caused it."""
        if not result[0]:
            return check(result, doing)
        error = error_of(result[0], f"{self.name}: {doing}")
        if int(result[0]) in SPOILS_CONTEXT:
            launched = ", ".join(self.pending) or "none of nnkit's"
            error = type(error)(
                f"{error}; kernels launched since the last synchronisation: {launched};{_ELSEWHERE}"
            )
            self.unusable = (
                f"{self.name} cannot be used any more since a kernel failed ({result[0].name}; launched were "
                f"{launched}): start a new process"
            )
        raise error

    def synchronize(self) -> None:
        """Wait for everything in the context; raises what a kernel did wrong."""
        self.call("cuCtxSynchronize", doing="waiting for the kernels")
        self.all_done()

    def all_done(self) -> None:
        """Every launch so far is done."""
        self.pending.clear()
        self.lent.clear()

    def close(self) -> None:
        """Release the context, even a broken one; a second call does nothing."""
        if not self.closed:
            self.closed = True
            self.lent.clear()
            self.unusable = f"{self.name} is closed; open it again with open_device"
            self.driver.cuDevicePrimaryCtxRelease(self.device)
