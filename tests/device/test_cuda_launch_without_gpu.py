"""Kernels, streams, events and the errors of kernels on the device `cuda`, on a fake driver."""

import ctypes

import numpy as np
import pytest
from cuda.bindings import driver as real

from nnkit.device.cuda import CudaDevice
from nnkit.device.cuda.launch import native_arch
from nnkit.errors import (
    CompileError,
    DeviceError,
    DeviceMemoryError,
    KernelError,
    LaunchError,
    NnkitError,
    UsageError,
)
from tests.support.fake_driver import PTX, FakeDriver, one_line


def test_what_a_launch_hands_to_the_driver(fake_cuda: CudaDevice, fake_driver: FakeDriver) -> None:
    x, y = fake_cuda.zeros((8,), "f4"), fake_cuda.zeros((8,), "f4")
    kernel = fake_cuda.load_ptx(PTX)["saxpy"]
    stream = fake_cuda.stream()
    kernel.launch(2, (4, 1), (np.int32(8), 2.0, x, y), 96, stream)
    launch = fake_driver.launches.pop()
    assert launch["extents"] == (2, 1, 1, 4, 1, 1)
    assert (launch["shared"], launch["extra"]) == (96, 0)
    assert launch["stream"] == int(stream.handle)
    pointers = (ctypes.c_uint64 * 4).from_address(launch["at"])
    assert ctypes.c_int32.from_address(pointers[0]).value == 8
    assert ctypes.c_float.from_address(pointers[1]).value == 2.0
    assert ctypes.c_uint64.from_address(pointers[2]).value == x.address
    assert ctypes.c_uint64.from_address(pointers[3]).value == y.address
    fake_cuda.load_ptx(PTX)["nothing"].launch(1, 1)
    assert fake_driver.launches.pop()["stream"] == real.CU_STREAM_LEGACY
    assert fake_driver.count("cuModuleLoadDataEx") == 1


def test_shared_memory_above_48_kib_is_asked_for_once(fake_cuda: CudaDevice, fake_driver: FakeDriver) -> None:
    kernel = fake_cuda.load_ptx(PTX)["nothing"]
    for shared, asked in [(47 * 1024, 0), (47 * 1024 + 1, 1), (100_000, 2), (60_000, 2)]:
        kernel.launch(1, 1, shared_bytes=shared)
        assert fake_driver.count("cuFuncSetAttribute") == asked
    one_line(LaunchError, lambda: kernel.launch(1, 1, shared_bytes=232448 - 1023), "0 to 231424")


def test_launches_that_are_refused(fake_cuda: CudaDevice, fake_driver: FakeDriver) -> None:
    module = fake_cuda.load_ptx(PTX)
    kernel = module["saxpy"]
    assert module.kernels == ("saxpy", "nothing")
    one_line(UsageError, lambda: module["saxpi"], "Did you mean 'saxpy'?")
    one_line(LaunchError, lambda: kernel.launch(1, 513), "the most for this kernel is 512")
    one_line(LaunchError, lambda: kernel.launch(1, 1, (1, 2.0)), "takes 4 argument(s)")
    other = CudaDevice(1)
    theirs = other.zeros((1,), "f4")
    one_line(LaunchError, lambda: kernel.launch(1, 1, (1, 2.0, theirs, theirs)), "another device")
    one_line(LaunchError, lambda: module["nothing"].launch(1, 1, stream=other.stream()), "device.stream()")
    other.close()
    assert not fake_driver.launches
    fake_driver.failures["cuLaunchKernel"] = [701]
    one_line(
        LaunchError, lambda: module["nothing"].launch(1, 1), "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "nothing"
    )


def test_ptx_that_the_driver_refuses(fake_cuda: CudaDevice, fake_driver: FakeDriver) -> None:
    fake_driver.failures["cuModuleLoadDataEx"] = [218, 222]
    fake_driver.log = b"ptxas application ptx input, line 3; error : Unknown symbol"
    with pytest.raises(CompileError, match=r"(?s)CUDA_ERROR_INVALID_PTX.*\nptxas .* Unknown symbol$"):
        fake_cuda.load_ptx(PTX)
    fake_driver.log = b""
    one_line(
        CompileError,
        lambda: fake_cuda.load_ptx(PTX),
        "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
        "update the driver",
    )
    fake_cuda.load_ptx(PTX)


@pytest.mark.parametrize(
    ("code", "kind", "name"),
    [
        (700, DeviceMemoryError, "CUDA_ERROR_ILLEGAL_ADDRESS"),
        (716, DeviceMemoryError, "CUDA_ERROR_MISALIGNED_ADDRESS"),
        (710, KernelError, "CUDA_ERROR_ASSERT"),
        (719, KernelError, "CUDA_ERROR_LAUNCH_FAILED"),
    ],
)
@pytest.mark.parametrize("how", ["synchronize", "download", "stream", "event"])
def test_an_error_of_a_kernel(
    fake_cuda: CudaDevice, fake_driver: FakeDriver, code: int, kind: type[NnkitError], name: str, how: str
) -> None:
    array, stream, event = fake_cuda.zeros((4,), "f4"), fake_cuda.stream(), fake_cuda.event()
    module = fake_cuda.load_ptx(PTX)
    module["nothing"].launch(1, 1)
    fake_cuda.synchronize()
    module["saxpy"].launch(1, 1, (1, 1.0, array, array))
    ways = {
        "synchronize": ("cuCtxSynchronize", fake_cuda.synchronize),
        "download": ("cuEventSynchronize", array.download),
        "stream": ("cuStreamSynchronize", stream.synchronize),
        "event": ("cuEventSynchronize", event.synchronize),
    }
    function, wait = ways[how]
    fake_driver.failures[function] = [code] * 2
    message = one_line(kind, wait, name, "launched since the last synchronisation: saxpy;")
    assert "nothing" not in message
    for later in (
        fake_cuda.synchronize,
        array.download,
        lambda: fake_cuda.empty((1,), "f4"),
        fake_cuda.stream,
    ):
        one_line(DeviceError, later, name, "saxpy", "start a new process")
    one_line(DeviceError, lambda: module["saxpy"].launch(1, 1, (1, 1.0, array, array)), "start a new process")
    stream.close()


def test_events_and_streams(fake_cuda: CudaDevice, fake_driver: FakeDriver) -> None:
    first, second = fake_cuda.event(), fake_cuda.event()
    one_line(UsageError, lambda: second.elapsed_ms(first), "record()")
    stream = fake_cuda.stream()
    first.record()
    second.record(stream)
    assert [int(args[1]) for name, args in fake_driver.calls if name == "cuEventRecord"][-2:] == [
        real.CU_STREAM_LEGACY,
        int(stream.handle),
    ]
    assert second.elapsed_ms(first) == 1.5
    stream.close()
    stream.close()
    assert fake_driver.count("cuStreamDestroy") == 1
    one_line(UsageError, stream.synchronize, "closed")
    one_line(UsageError, lambda: second.record(stream), "closed")


def test_the_code_compiled_for_a_gpu() -> None:
    known = [75, 80, 86, 89, 90, 100, 120]
    assert native_arch((9, 0), known) == "sm_90"
    assert native_arch((12, 1), known) == "compute_120"
    assert native_arch((8, 7), known) == "compute_86"
    assert native_arch((7, 0), known) == "sm_70"


def test_compile_makes_machine_code_of_the_gpu(fake_cuda: CudaDevice, fake_driver: FakeDriver) -> None:
    module = fake_cuda.compile('extern "C" __global__ void one(float* x) { x[0] = 1; }')
    image = next(args[0] for name, args in fake_driver.calls if name == "cuModuleLoadDataEx")
    assert image.startswith(b"\x7fELF")
    assert module.kernels == ("one",)
    fake_cuda.compile('extern "C" __global__ void two() {}', arch="compute_80")
    image = [args[0] for name, args in fake_driver.calls if name == "cuModuleLoadDataEx"][1]
    assert b".target sm_80" in image
    assert image.endswith(b"\0")
