"""Devices: where arrays live and operations run. The seam between kinds of hardware lies here, low.

`cpu` is NumPy; `virtual` runs CUDA kernels on the CPU; `cuda` is a GPU. The rooms, from the top down; each
imports only what stands below it (import-linter sees to it):

    cuda, virtual, cpu  the devices; none knows another
    kernel_operations   the operations of a training step as kernels
    kernels             what a kernel takes: parameters, arguments, extents, variables
    compile             CUDA C++ to PTX and machine code, with NVRTC
    names               names and types of kernels and variables
    host                what devices in host memory share
    source              a user's CUDA source: headers, host code, lines in messages
    cpp                 C++ text: tokens, macros, conditions, declarations
    arrays              what all arrays share, and memory shared with other libraries
    cache               what is kept on disk between runs
    bound               what belongs to a device of this process
"""

import re
from collections.abc import Collection
from typing import Any

from nnkit.contracts import Array, Device
from nnkit.errors import DeviceError, UsageError, unknown_name

DEVICES = ("cpu", "virtual", "cuda")
"""The kinds of device; "cuda:N" is GPU number N."""


def open_device(name: str = "auto", turn: int = 0) -> Device[Array]:
    """The device of that name; "auto" is a GPU if there is one, else `virtual`.

    Of several GPUs "cuda" and "auto" mean the first; for processes that share a host, each with a `turn` of
    its own, counted from 0, they mean one after the other.
    Raises UsageError for an unknown name and DeviceError for a device that cannot be had.
    """
    if not isinstance(name, str) or not isinstance(turn, int):
        raise unknown_name("device", name if isinstance(turn, int) else turn, ["auto", *DEVICES, "cuda:N"])
    if name == "auto":
        return _gpu_or_virtual(turn)[0]
    return _opened(name, turn)


def _opened(name: str, turn: int) -> Device[Any]:
    """A device that is named. Nobody can tell by its name which arrays are its own."""
    kind, _, number = name.partition(":")
    if kind == "cuda" and (not number or re.fullmatch("[0-9]+", number)) and not name.endswith(":"):
        from nnkit.device.cuda import CudaDevice

        return CudaDevice(int(number) if number else None, turn)
    if name == "virtual":
        from nnkit.device.virtual import VirtualDevice

        return VirtualDevice()
    if name == "cpu":
        from nnkit.device.cpu import CpuDevice

        return CpuDevice()
    if name.lower().startswith(("gpu", "nvidia")):
        raise UsageError(f"there is no device {name!r}: a GPU is 'cuda', or 'cuda:0' if there are several")
    raise unknown_name("device", name, ["auto", *DEVICES, "cuda:N"])


def open_device_for(served: Collection[str], name: str = "auto", turn: int = 0) -> tuple[Device[Array], str]:
    """A device that a backend serves, and in words which one and why ("" where the name left no choice).

    "auto" takes a GPU if the backend serves one and there is one, else `virtual`, else `cpu`.
    """
    if name != "auto":
        return open_device(name, turn), ""
    if "cuda" in served or "virtual" in served:
        device, why = _gpu_or_virtual(turn, need_gpu="virtual" not in served)
        if device.name in served:
            return device, why
        device.close()
    if "virtual" in served:
        return open_device("virtual"), ""
    if "cpu" in served:
        return open_device("cpu"), ""
    raise UsageError(f"no device that this backend serves ({', '.join(sorted(served))}) can be had here")


def _gpu_or_virtual(turn: int, need_gpu: bool = False) -> tuple[Device[Array], str]:
    try:
        gpu = open_device("cuda", turn)
    except DeviceError as error:
        if need_gpu:
            raise
        missing = str(error).removeprefix("no device cuda: ").partition(": ")[0]
        return open_device("virtual"), f"device virtual runs the CUDA kernels on the CPU: {missing}"
    return gpu, f"device cuda runs the CUDA kernels on {getattr(gpu, 'description', 'a GPU')}"
