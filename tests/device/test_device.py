"""What every device that runs kernels must do, `virtual` and `cuda` alike."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import nnkit
from nnkit.contracts import Array, Device
from nnkit.device.host.array import CpuArray
from nnkit.errors import CompileError, DeviceError, LaunchError, UsageError

SAXPY = """
extern "C" __global__ void saxpy(int n, float a, const float* x, float* y) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] += a * x[i];
}
"""
STRUCT = """
struct Line { double slope; int shift; };
extern "C" __global__ void line(Line line, int n, double* x) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] = line.slope * i + line.shift;
}
"""
SHARED = """
extern "C" __global__ void reverse(int n, float* x) {
    extern __shared__ float tile[];
    tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = tile[n - 1 - threadIdx.x];
}
"""
EXTENTS = """
extern "C" __global__ void extents(int* x) {
    int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    x[block * blockDim.x * blockDim.y * blockDim.z + thread] = 1000 * block + thread;
}
"""
PTX = """
.version 7.8
.target sm_75
.address_size 64
.visible .entry store(.param .u64 store_param_0, .param .u32 store_param_1)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [store_param_0];
    ld.param.u32 %r1, [store_param_1];
    cvta.to.global.u64 %rd2, %rd1;
    st.global.u32 [%rd2], %r1;
    ret;
}
"""
DTYPES = ["b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16", "i4,f8"]
SHAPES = [(), (0,), (1,), (7,), (0, 3), (5, 3), (2, 3, 4), (300_000,)]


def values(shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
    """Bytes of no special meaning, seen as that dtype."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.random.default_rng(0).integers(0, 2 if dtype == "b1" else 100, count, np.uint8)
    return raw.view(dtype).reshape(shape) if count else np.empty(shape, dtype)


def equal(array: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    """Asserts the same shape, dtype and bytes."""
    assert (array.shape, array.dtype) == (expected.shape, expected.dtype)
    assert array.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_goes_up_comes_down(kernel_device: Device[Array], shape: tuple[int, ...], dtype: str) -> None:
    host = values(shape, dtype)
    array = kernel_device.upload(host)
    assert (array.shape, array.dtype) == (host.shape, host.dtype)
    equal(array.download(), host)
    equal(array.copy().download(), host)
    array.write(host[::-1] if shape else host)
    equal(array.download(), np.ascontiguousarray(host[::-1]) if shape else host)
    equal(kernel_device.zeros(shape, dtype).download(), np.zeros(shape, dtype))
    empty = kernel_device.empty(shape, dtype)
    assert (empty.shape, empty.dtype, empty.download().shape) == (shape, host.dtype, shape)


def test_views(kernel_device: Device[Array]) -> None:
    host = np.arange(12, dtype=np.float32).reshape(4, 3)
    array = kernel_device.upload(host)
    twin, flat = array.copy(), array.reshape((2, 6))
    array.rows(1, 3).write(np.zeros((2, 3), np.float32))
    equal(twin.download(), host)
    host[1:3] = 0
    equal(array.download(), host)
    equal(flat.download(), host.reshape(2, 6))
    equal(flat.rows(1, 2).reshape((3, 2)).download(), host[2:].reshape(3, 2))
    equal(array.rows(2, 2).download(), host[2:2])
    view = kernel_device.upload(host).rows(3, 4)
    equal(view.download(), host[3:])


def test_an_upload_is_row_major(kernel_device: Device[Array]) -> None:
    host = np.arange(12.0).reshape(3, 4).T
    equal(kernel_device.upload(host).download(), np.ascontiguousarray(host))


def test_an_array_is_written_with_its_own_kind_alone(kernel_device: Device[Array]) -> None:
    array = kernel_device.zeros((2, 3), np.float32)
    with pytest.raises(UsageError, match=r"\(3, 2\)"):
        array.write(np.zeros((3, 2), np.float32))
    with pytest.raises(UsageError, match="float64"):
        array.write(np.zeros((2, 3)))
    with pytest.raises(UsageError, match=r"\(7,\)"):
        array.reshape((7,))


@pytest.mark.parametrize("n", [1, 31, 32, 33, 1000])
def test_saxpy(kernel_device: Device[Array], n: int) -> None:
    x, y = np.arange(n, dtype=np.float32), np.ones(n, np.float32)
    on_x, on_y = kernel_device.upload(x), kernel_device.upload(y)
    saxpy = kernel_device.compile(SAXPY, name="saxpy.cu")["saxpy"]
    saxpy.launch(-(-n // 128), 128, (np.int32(n), np.float32(2), on_x, on_y))
    saxpy.launch((-(-n // 128), 1, 1), (128,), (n, 2.0, on_x, on_y))
    equal(on_y.download(), y + 4 * x)
    equal(on_x.download(), x)


def test_a_module_names_its_kernels(kernel_device: Device[Array], tmp_path: Path) -> None:
    path = tmp_path / "both.cu"
    path.write_text(SAXPY + SHARED, "utf-8")
    module = kernel_device.compile(path)
    assert sorted(module.kernels) == ["reverse", "saxpy"]
    assert module["saxpy"].name == "saxpy"
    with pytest.raises(UsageError, match="Did you mean 'saxpy'"):
        module["saxpi"]


def test_the_example_of_the_design() -> None:
    source = """
    // c (m, m) = a a^T for a (m, TILE).
    extern "C" __global__ void my_gemm(int m, const float* a, float* c) {
        int row = blockIdx.y * blockDim.y + threadIdx.y, column = blockIdx.x * blockDim.x + threadIdx.x;
        if (row >= m || column >= m) return;
        float sum = 0;
        for (int k = 0; k < TILE; ++k) sum += a[row * TILE + k] * a[column * TILE + k];
        c[row * m + column] = sum;
    }
    """
    m = n = 40
    gx = gy = 3
    host_a = np.arange(m * 32, dtype=np.float32).reshape(m, 32) % 7

    dev = nnkit.open_device("auto")  # cuda if there is a GPU, else virtual; "cuda:1", "virtual", "cpu"
    mod = dev.compile(source, name="mine.cu", options=["-DTILE=32"])
    a, c = dev.upload(host_a), dev.empty((m, n), np.float32)
    mod["my_gemm"].launch(grid=(gx, gy), block=(16, 16), args=(np.int32(m), a, c), shared_bytes=0)
    host_c = c.download()

    # Integers this small have no rounding.
    equal(host_c, host_a @ host_a.T)


def test_blocks_and_threads_have_three_axes(kernel_device: Device[Array]) -> None:
    array = kernel_device.zeros((24, 30), np.int32)
    kernel_device.compile(EXTENTS)["extents"].launch((2, 3, 4), (5, 3, 2), (array,))
    expected = 1000 * np.arange(24)[:, None] + np.arange(30)
    equal(array.download(), expected.astype(np.int32))


@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_struct_by_value(kernel_device: Device[Array], as_bytes: bool) -> None:
    record = np.array((0.5, -3), np.dtype([("slope", "f8"), ("shift", "i4")], align=True))[()]
    array = kernel_device.zeros((5,), np.float64)
    kernel = kernel_device.compile(STRUCT)["line"]
    kernel.launch(1, 32, (record.tobytes() if as_bytes else record, np.int32(5), array))
    equal(array.download(), 0.5 * np.arange(5) - 3)


@pytest.mark.parametrize(("n", "shared_bytes"), [(64, 256), (1024, 4096), (64, 96 * 1024)])
def test_dynamic_shared_memory(kernel_device: Device[Array], n: int, shared_bytes: int) -> None:
    host = np.arange(n, dtype=np.float32)
    array = kernel_device.upload(host)
    kernel_device.compile(SHARED)["reverse"].launch(1, n, (n, array), shared_bytes)
    equal(array.download(), host[::-1].copy())


def test_ptx_text(kernel_device: Device[Array]) -> None:
    array = kernel_device.zeros((2,), np.uint32)
    module = kernel_device.load_ptx(PTX)
    assert module.kernels == ("store",)
    module["store"].launch(1, 1, (array.rows(1, 2), 77))
    assert array.download().tolist() == [0, 77]


def test_ptx_that_is_none(kernel_device: Device[Array]) -> None:
    with pytest.raises(CompileError):
        kernel_device.load_ptx(".version 7.8\n.target sm_75\nthis is no PTX\n")


def test_source_that_does_not_compile(kernel_device: Device[Array]) -> None:
    with pytest.raises(CompileError, match=r"broken\.cu.*2"):
        kernel_device.compile(
            'extern "C" __global__ void k(float* x) {\n  x[0] = nowhere; }', name="broken.cu"
        )


@pytest.mark.parametrize(
    ("grid", "block", "shared_bytes", "words"),
    [
        (0, 1, 0, "grid"),
        ((1, 0), 1, 0, "grid"),
        ((1, 65536), 1, 0, "grid"),
        (1, (32, 64), 0, "2048 threads"),
        (1, (1, 1, 65), 0, "block"),
        (1, 1.5, 0, "block"),
        (1, 1, -1, "shared_bytes"),
        (1, 1, 1 << 20, "shared_bytes"),
    ],
)
def test_extents_that_are_refused(
    kernel_device: Device[Array], grid: Any, block: Any, shared_bytes: int, words: str
) -> None:
    array = kernel_device.zeros((1,), np.int32)
    kernel = kernel_device.compile(EXTENTS)["extents"]
    with pytest.raises(LaunchError, match=words):
        kernel.launch(grid, block, (array,), shared_bytes)


def test_launch_bounds_are_kept(kernel_device: Device[Array]) -> None:
    module = kernel_device.compile('extern "C" __global__ __launch_bounds__(64) void small() {}')
    module["small"].launch(1, 64)
    with pytest.raises(LaunchError, match="65"):
        module["small"].launch(1, 65)


@pytest.mark.parametrize(
    ("place", "argument"),
    [
        (0, np.int64(1)),
        (0, 1.0),
        (1, 1),
        (1, np.float64(1)),
        (1, np.int32(1)),
        (2, np.zeros(8, np.float32)[::2]),
        (2, CpuArray(np.zeros(4, np.float32))),
        (2, 1.0),
    ],
)
def test_arguments_that_are_refused(kernel_device: Device[Array], place: int, argument: Any) -> None:
    array = kernel_device.zeros((4,), np.float32)
    arguments = [np.int32(4), np.float32(1), array, array]
    arguments[place] = argument
    kernel = kernel_device.compile(SAXPY)["saxpy"]
    with pytest.raises(LaunchError, match=f"kernel saxpy, argument {place + 1} of 4"):
        kernel.launch(1, 32, arguments)
    with pytest.raises(LaunchError, match="takes 4"):
        kernel.launch(1, 32, arguments[:3])


def test_streams_and_events(kernel_device: Device[Array]) -> None:
    n = 1 << 16
    kernel = kernel_device.compile(SAXPY)["saxpy"]
    x, y = kernel_device.upload(np.ones(n, np.float32)), kernel_device.zeros((n,), np.float32)
    stream = kernel_device.stream()
    start, middle, end = (kernel_device.event() for _ in range(3))
    start.record(stream)
    kernel.launch(n // 256, 256, (n, 1.0, x, y), stream=stream)
    middle.record(stream)
    stream.synchronize()
    kernel.launch(n // 256, 256, (n, 1.0, x, y))
    end.record()
    end.synchronize()
    assert middle.elapsed_ms(start) >= 0
    assert end.elapsed_ms(start) >= middle.elapsed_ms(start)
    kernel.launch(n // 256, 256, (n, 1.0, x, y), stream=stream)
    # A download waits for every stream.
    equal(y.download(), np.full(n, 3, np.float32))
    stream.close()
    stream.close()
    kernel_device.synchronize()


def test_an_event_without_a_time(kernel_device: Device[Array]) -> None:
    with pytest.raises(UsageError, match="record"):
        kernel_device.event().elapsed_ms(kernel_device.event())


def test_close_may_be_called_twice(kernel_device: Device[Array]) -> None:
    device = nnkit.open_device(kernel_device.name)
    array = device.upload(np.zeros(3))
    device.close()
    device.close()
    with pytest.raises(DeviceError, match="closed"):
        device.empty((3,), np.float32)
    with pytest.raises(DeviceError, match="closed"):
        array.download()
    # Another device of the same kind goes on.
    equal(kernel_device.upload(np.ones(3)).download(), np.ones(3))
