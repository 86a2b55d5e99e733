"""Accesses that share a check: the report names the one that is wrong; and generic addresses."""

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from nnkit.device.virtual import VirtualDevice, VirtualKernel
from nnkit.errors import DeviceMemoryError, UsageError
from tests.support.sources import line_of, report

GROUPS = """
extern "C" __global__ void stencil(const float* p, float* out) {
    int t = threadIdx.x;
    float sum = p[t - 1]; // left
    sum += p[t]; // middle
    sum += p[t + 1]; // right
    out[t] = sum;
}
extern "C" __global__ void unrolled(float* p, const float* x) {
    const float* q = x + 0 * threadIdx.x;
    p[0] = q[0]; // 0
    p[1] = q[0]; // 1
    p[2] = q[0]; // 2
    p[3] = q[0]; // 3
    p[-1] = q[0]; // -1
    p[5] = q[0]; // 5
}
extern "C" __global__ void mixed(char* p, float* out) {
    out[0] = *(volatile unsigned char*)(p + 3); // byte
    out[1] = *(volatile int*)(p + 4); // word
    out[2] = *(volatile double*)(p + 16); // double
    out[3] = *(volatile unsigned short*)(p + 6); // short
}
extern "C" __global__ void columns(const float* p, float* out, int stride) {
    __shared__ float tile[4][33];
    int t = threadIdx.x;
    for (int row = 0; row < 4; ++row)
        tile[row][t % 32] = p[row * stride + t % 32]; // tile
    __syncthreads();
    out[t] = tile[t / 8 % 4][t]; // transposed
}
extern "C" __global__ void below(int n, const float* p, float* out) {
    if (threadIdx.x < n) out[threadIdx.x] = p[threadIdx.x]; // below
}
"""


@pytest.fixture(scope="module")
def device() -> Iterator[VirtualDevice]:
    made = VirtualDevice(threads=1)
    yield made
    made.close()


@pytest.fixture(scope="module")
def groups(device: VirtualDevice) -> dict[str, VirtualKernel]:
    module = device.compile(GROUPS, name="groups.cu")
    return {name: module[name] for name in module.kernels}


def failing(kernel: VirtualKernel, threads: int, *args: object) -> tuple[int, int]:
    """(line, thread) of the report."""
    with pytest.raises(DeviceMemoryError) as caught:
        kernel.launch(1, threads, args)
    found = report(caught.value)
    return found.line, found.thread[0]


@pytest.mark.parametrize("threads", [1, 16, 31, 64])
def test_one_bad_access_of_a_group(
    device: VirtualDevice, groups: dict[str, VirtualKernel], threads: int
) -> None:
    out = device.zeros((64,), np.float32)
    x = device.zeros((threads + 2,), np.float32)
    stencil = groups["stencil"]
    stencil.launch(1, threads, (x.rows(1, 2), out))
    assert failing(stencil, threads, x, out) == (line_of(GROUPS, "left"), 0)
    assert failing(stencil, threads, x.rows(2, 3), out) == (line_of(GROUPS, "right"), threads - 1)


def test_the_line_of_the_bad_one(device: VirtualDevice, groups: dict[str, VirtualKernel]) -> None:
    x = device.zeros((7,), np.float32)
    unrolled, mixed = groups["unrolled"], groups["mixed"]
    unrolled.launch(1, 32, (x.rows(1, 2), x))
    assert failing(unrolled, 32, x, x) == (line_of(GROUPS, "-1"), 0)
    assert failing(unrolled, 32, x.rows(2, 3), x) == (line_of(GROUPS, "5"), 0)
    assert failing(unrolled, 32, x.rows(5, 6), x) == (line_of(GROUPS, "2"), 0)
    for size, mark in ((24, ""), (23, "double"), (7, "word"), (3, "byte")):
        p, out = device.zeros((size,), np.uint8), device.zeros((4,), np.float32)
        if mark:
            assert failing(mixed, 1, p, out) == (line_of(GROUPS, mark), 0)
        else:
            mixed.launch(1, 1, (p, out))
    p = device.zeros((64,), np.uint8)
    assert failing(mixed, 1, p.rows(4, 5), out) == (line_of(GROUPS, "double"), 0)
    assert failing(mixed, 1, p.rows(1, 2), out) == (line_of(GROUPS, "word"), 0)


def test_a_tile(device: VirtualDevice, groups: dict[str, VirtualKernel]) -> None:
    out, p = device.zeros((64,), np.float32), device.zeros((3 * 40 + 32,), np.float32)
    columns = groups["columns"]
    columns.launch(1, 32, (p, out, 40))
    assert failing(columns, 32, p, out, 41) == (line_of(GROUPS, "tile"), 29)
    assert failing(columns, 32, p, out, -1) == (line_of(GROUPS, "tile"), 0)
    # Thread 56 reads tile[3][56], the first that is behind the end of the whole.
    assert failing(columns, 64, p, out, 40) == (line_of(GROUPS, "transposed"), 56)


@pytest.mark.parametrize("width", [1, 8, 16, 32, 64])
def test_any_width(width: int) -> None:
    device = VirtualDevice(width=width, threads=1)
    module = device.compile(GROUPS, name="groups.cu")
    p, out = device.upload(np.arange(50, dtype=np.float32)), device.zeros((64,), np.float32)
    module["below"].launch(1, 64, (50, p, out))
    assert out.host.tolist() == [*range(50), *[0] * 14]
    assert failing(module["below"], 64, 51, p, out) == (line_of(GROUPS, "below"), 50)
    assert failing(module["stencil"], 48, p, out) == (line_of(GROUPS, "left"), 0)
    device.close()


def test_threads_report_one_error_and_stop() -> None:
    device = VirtualDevice(threads=4)
    module = device.compile(GROUPS, name="groups.cu")
    p, out = device.zeros((64,), np.float32), device.zeros((64,), np.float32)
    for _ in range(20):
        with pytest.raises(DeviceMemoryError) as caught:
            module["below"].launch(5000, 64, (64, p.rows(1, 2), out))
        assert report(caught.value).thread == (63, 0, 0)
        module["below"].launch(5000, 64, (64, p, out))
    device.close()


def test_a_width_that_is_none() -> None:
    with pytest.raises(UsageError, match="width=4: give one of 1, 8"):
        VirtualDevice(width=4)


GENERIC = """
__constant__ int fixed[4] = {1, 2, 3, 4};
__device__ __noinline__ int next(const volatile int* p, long long i) {
    return p[i + 1]; // next
}
__device__ __noinline__ void set(volatile int* p, int i) {
    p[i] = 7; // set
}
extern "C" __global__ void shared_next(long long i, int* out) {
    __shared__ int here[64];
    here[threadIdx.x] = threadIdx.x; __syncthreads();
    out[threadIdx.x] = next(here, i + threadIdx.x);
}
extern "C" __global__ void where(const int** out) {
    *out = fixed;
}
extern "C" __global__ void set_there(int** p, int i) {
    set(*p, i);
}
extern "C" __global__ void exchange_there(int** p, int i) {
    atomicExch(*p + i, 5); // exchange
}
extern "C" __global__ void null(int* out) {
    out[0] = next((int*)0, -1);
}
"""


def test_constant_memory_cannot_be_written(device: VirtualDevice) -> None:
    module = device.compile(GENERIC, name="generic.cu")
    out, place = device.zeros((64,), np.int32), device.zeros((1,), np.uint64)
    module["where"].launch(1, 1, (place,))
    for kernel, mark in (("set_there", "set"), ("exchange_there", "exchange")):
        with pytest.raises(DeviceMemoryError, match="writes to constant memory") as caught:
            module[kernel].launch(1, 1, (place, 3))
        assert report(caught.value).line == line_of(GENERIC, mark)
        with pytest.raises(
            DeviceMemoryError, match="0 bytes behind the end of const variable fixed of 16 bytes"
        ):
            module[kernel].launch(1, 1, (place, 4))
    with pytest.raises(DeviceMemoryError, match="load of 4 bytes at global address 0x0 "):
        module["null"].launch(1, 1, (out,))


WRAP = """
import sys
import numpy as np
from nnkit.device.virtual import VirtualDevice
from nnkit.errors import DeviceMemoryError, UsageError

device = VirtualDevice(threads=1)
module = device.compile(sys.stdin.read(), name="generic.cu")
out = device.zeros((64,), np.int32)
# The base lies before the window, the address in it.
module["shared_next"].launch(1, 32, (np.int64(-1), out))
assert out.host[:32].tolist() == list(range(32))
for index in (0x3FFFFFFF, -0x40000001, 0x3FFFFFFE, 1 << 61, 63, -2):
    try:
        module["shared_next"].launch(1, 1, (np.int64(index), out))
    except DeviceMemoryError as error:
        print(error)
"""


def test_a_generic_address_far_off_its_window() -> None:
    """In a process of its own: a check of the base instead of the address let the process crash."""
    done = subprocess.run(
        [sys.executable, "-c", WRAP], input=GENERIC, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 6
