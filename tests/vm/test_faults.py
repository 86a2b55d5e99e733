"""What went wrong in a kernel, for programs: the record that an error carries beside its message."""

import numpy as np
import pytest

from nnkit.device.virtual import VirtualDevice
from nnkit.errors import DeviceMemoryError, FaultRecord, KernelError

SOURCE = """
#include <cassert>
extern "C" __global__ void store(int* x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i == n) x[i] = 1;
}
extern "C" __global__ void shared(int* x, int n) {
    __shared__ double s[4];
    s[threadIdx.x + n] = 1;
    x[0] = s[n];
}
extern "C" __global__ void check(int* x, int n) {
    assert(x[threadIdx.x] != n);
}
extern "C" __global__ void parted(int* x) {
    if (threadIdx.x < 32) asm volatile("bar.sync 1;" ::: "memory");
    else asm volatile("bar.sync 2;" ::: "memory");
    x[0] = 1;
}
"""


def fault(name: str, grid: int, block: int, *args: int) -> tuple[KernelError, FaultRecord]:
    """The error of a kernel's launch, and its record."""
    device = VirtualDevice(threads=1)
    x = device.upload(np.arange(100, dtype=np.int32))
    with pytest.raises(KernelError) as caught:
        device.compile(SOURCE, name="faults.cu")[name].launch(grid, block, (x, *args))
    device.close()
    assert caught.value.fault
    return caught.value, caught.value.fault


def test_an_access_to_an_array() -> None:
    error, found = fault("store", 4, 32, 100)
    assert isinstance(error, DeviceMemoryError)
    assert (found.kernel, found.what, found.space, found.size) == ("store", "store", "global", 4)
    assert (found.file, found.line) == ("faults.cu", 5)
    assert (found.block, found.thread) == ((3, 0, 0), (4, 0, 0))
    assert found.nearest in str(error)
    assert f"{found.address:#x}" in str(error)


def test_an_access_to_shared_memory() -> None:
    error, found = fault("shared", 1, 32, 3)
    assert (found.space, found.address, found.size) == ("shared", 32, 8)
    assert (found.block, found.thread) == ((0, 0, 0), (1, 0, 0))
    assert found.nearest == "it lies 0 bytes behind the end: shared memory has 32 bytes here"
    assert str(found) == str(error)


def test_an_assertion() -> None:
    error, found = fault("check", 1, 64, 50)
    assert not isinstance(error, DeviceMemoryError)
    assert (found.line, found.thread, found.space, found.size) == (13, (50, 0, 0), "", 0)


def test_what_no_thread_is_to_blame_for() -> None:
    error, found = fault("parted", 1, 64)
    assert (found.kernel, found.block, found.thread, found.line) == ("parted", (0, 0, 0), None, 0)
    assert "threads 0 to 31 wait at barrier 1" in str(error)


def test_an_error_of_another_kind_has_none() -> None:
    assert KernelError("the GPU stopped").fault is None
