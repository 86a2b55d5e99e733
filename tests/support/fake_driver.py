"""A CUDA driver made of host memory, for tests of the device `cuda` on a machine without one."""

import ctypes
from collections.abc import Callable
from typing import Any

import pytest
from cuda.bindings import driver as real

from nnkit.errors import NnkitError

PTX = """
.version 8.0
.target sm_90
.visible .entry saxpy(.param .u32 n, .param .f32 a, .param .u64 x, .param .u64 y) { ret; }
.visible .entry nothing() { ret; }
"""
ATTRIBUTES = {
    "COMPUTE_CAPABILITY_MAJOR": 9,
    "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN": 232448,
    "CLOCK_RATE": 1980000,
}


class FakeDriver:
    """The functions of `cuda.bindings.driver` that nnkit calls, with host memory behind them.

    Every call is recorded; `failures[function]` lists the codes of its next calls, 0 for success. Constants
    and types are the real ones.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.failures: dict[str, list[int]] = {}
        self.memory: dict[int, Any] = {}
        self.launches: list[dict[str, Any]] = []
        self.log = b""
        self.variables: dict[str, Any] = {}
        self.handles = iter(range(1, 1 << 30))

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            return getattr(real, name)
        assert hasattr(real, name), f"the driver has no {name}"

        def call(*args: Any) -> tuple[Any, ...]:
            self.calls.append((name, args))
            codes = self.failures.get(name)
            code = real.CUresult(codes.pop(0) if codes else 0)
            if code and name == "cuMemAlloc":
                return code, None
            values = getattr(type(self), f"_{name}", lambda *_: ())(self, *args)
            return (code, *values) if code == 0 else (code, *(None for _ in values))

        return call

    def count(self, name: str) -> int:
        """How often the function was called."""
        return sum(called == name for called, _ in self.calls)

    def _cuDriverGetVersion(self) -> tuple[int]:
        return (13000,)

    def _cuDeviceGetCount(self) -> tuple[int]:
        return (2,)

    def _cuDeviceGet(self, ordinal: int) -> tuple[int]:
        return (ordinal,)

    def _cuDeviceGetName(self, length: int, device: int) -> tuple[bytes]:
        return (b"Fake GPU\0".ljust(length),)

    def _cuDeviceTotalMem(self, device: int) -> tuple[int]:
        return (80 * 10**9,)

    def _cuDeviceGetAttribute(self, attribute: Any, device: int) -> tuple[int]:
        return (ATTRIBUTES.get(attribute.name.removeprefix("CU_DEVICE_ATTRIBUTE_"), 0),)

    def _cuDevicePrimaryCtxRetain(self, device: int) -> tuple[Any]:
        return (real.CUcontext(100 + device),)

    def _cuMemAlloc(self, size: int) -> tuple[Any]:
        memory = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(memory)] = memory
        return (real.CUdeviceptr(ctypes.addressof(memory)),)

    def _cuMemFree(self, address: int) -> tuple[()]:
        del self.memory[address]
        return ()

    def _cuPointerGetAttribute(self, attribute: Any, address: int) -> tuple[int]:
        assert attribute.name == "CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL"
        ours = any(start <= int(address) < start + len(block) for start, block in self.memory.items())
        return (0 if ours else 1,)

    def _cuMemGetInfo(self) -> tuple[int, int]:
        return 10**9, 80 * 10**9

    def _cuMemHostAlloc(self, size: int, flags: int) -> tuple[int]:
        return (int(self._cuMemAlloc(size)[0]),)

    def _cuMemFreeHost(self, address: int) -> tuple[()]:
        return self._cuMemFree(address)

    def _copy(self, to: int, source: int, size: int, stream: Any) -> tuple[()]:
        ctypes.memmove(to, source, size)
        return ()

    _cuMemcpyHtoDAsync = _cuMemcpyDtoHAsync = _cuMemcpyDtoDAsync = _copy

    def _cuMemsetD8Async(self, address: int, value: int, size: int, stream: Any) -> tuple[()]:
        ctypes.memset(address, value, size)
        return ()

    def _cuEventCreate(self, flags: int) -> tuple[Any]:
        return (real.CUevent(next(self.handles)),)

    def _cuEventElapsedTime(self, start: Any, end: Any) -> tuple[float]:
        return (1.5,)

    def _cuStreamCreate(self, flags: int) -> tuple[Any]:
        return (real.CUstream(next(self.handles)),)

    def _cuModuleLoadDataEx(self, image: bytes, count: int, options: Any, values: Any) -> tuple[Any]:
        values[0][: len(self.log)] = self.log
        return (real.CUmodule(next(self.handles)),)

    def _cuModuleGetFunction(self, module: Any, name: bytes) -> tuple[Any]:
        return (real.CUfunction(next(self.handles)),)

    def _cuModuleGetGlobal(self, module: Any, name: bytes) -> tuple[Any, int]:
        memory = self.variables[name.decode()]
        return real.CUdeviceptr(ctypes.addressof(memory)), ctypes.sizeof(memory)

    def _cuFuncGetAttribute(self, attribute: Any, function: Any) -> tuple[int]:
        return ({"CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK": 512}.get(attribute.name, 1024),)

    def _cuLaunchKernel(self, *args: Any) -> tuple[()]:
        *_, shared, stream, pointers, extra = args
        self.launches.append(
            {"extents": args[1:7], "shared": shared, "stream": int(stream), "at": pointers, "extra": extra}
        )
        return ()


def one_line(kind: type[NnkitError], call: Callable[[], Any], *words: str) -> str:
    """The message of the error, which is of that kind, one line, and has the words."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert type(caught.value) is kind
    assert "\n" not in message
    for word in words:
        assert word in message
    return message
