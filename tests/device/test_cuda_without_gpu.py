"""The device `cuda` on a machine without one: opening it, its memory and its arrays, on a fake driver."""

import gc
import os
import subprocess
import sys
import weakref
from functools import partial
from typing import Any

import numpy as np
import pytest

from nnkit.device import open_device, open_device_for
from nnkit.device.arrays import dlpack
from nnkit.device.cuda import CudaDevice
from nnkit.device.cuda import driver as cuda_driver
from nnkit.device.cuda.memory import CHUNK, CHUNKS, size_class
from nnkit.errors import DeviceError, UsageError
from tests.support.fake_driver import PTX, FakeDriver, one_line


def test_no_driver_is_one_line_with_a_cure() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from nnkit.device.cuda import CudaDevice; CudaDevice(0)"],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("nnkit.errors.DeviceError: no device cuda: "), done.stderr
    assert "the device virtual" in last


@pytest.mark.parametrize(
    ("failures", "words"),
    [
        ({"cuInit": [100]}, ("CUDA_ERROR_NO_DEVICE", "nvidia-smi", "virtual")),
        ({"cuInit": [803]}, ("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "restart")),
        ({"cuInit": [999]}, ("CUDA_ERROR_UNKNOWN", "nvidia-smi")),
        ({"cuInit": [34]}, ("CUDA_ERROR_STUB_LIBRARY", "LD_LIBRARY_PATH")),
    ],
)
def test_a_driver_that_does_not_start(failures: dict[str, list[int]], words: tuple[str, ...]) -> None:
    driver = FakeDriver()
    driver.failures = failures
    one_line(DeviceError, lambda: cuda_driver.start(driver), "no device cuda: ", *words)


def test_a_driver_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeDriver, "_cuDriverGetVersion", lambda self: (12040,))
    one_line(DeviceError, lambda: cuda_driver.start(FakeDriver()), "CUDA 12.4", "13.0", "580")


def test_a_gpu_that_is_not_there(fake_driver: FakeDriver) -> None:
    one_line(DeviceError, lambda: CudaDevice(2), "no device cuda:2", "cuda:0, cuda:1")
    one_line(DeviceError, lambda: CudaDevice(-1), "cuda:0")


def test_ranks_of_a_host_take_gpus_in_turn(fake_driver: FakeDriver) -> None:
    def label(device: object) -> str:
        assert isinstance(device, CudaDevice)
        return device.label

    labels = [
        label(open_device_for(("cuda",), name, turn)[0]) for name in ("cuda", "auto") for turn in range(4)
    ]
    assert labels == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"] * 2
    assert label(open_device("cuda:1", turn=2)) == "cuda:1"


def test_no_gpu_for_any_turn(fake_driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeDriver, "_cuDeviceGetCount", lambda self: (0,))
    one_line(DeviceError, lambda: CudaDevice(turn=3), "no device cuda:0", "there are: none")


def test_what_the_device_says_of_itself(fake_cuda: CudaDevice) -> None:
    assert fake_cuda.name == "cuda"
    assert fake_cuda.description == "Fake GPU"
    assert fake_cuda.capability == (9, 0)
    assert fake_cuda.properties.clock_mhz == 1980
    assert fake_cuda.properties.shared_bytes == 232448
    assert fake_cuda.properties.driver == "13.0"


@pytest.mark.parametrize("dtype", ["u1", "i4", "f2", "f4", "f8", "c16", "?", ">i4"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (0, 4), (5, 7), (CHUNK, 2), (CHUNK * CHUNKS // 4 + 3,)])
def test_round_trips(fake_cuda: CudaDevice, dtype: str, shape: tuple[int, ...]) -> None:
    host = np.random.default_rng(0).integers(0, 99, shape).astype(dtype)
    array = fake_cuda.upload(host)
    for back in (array.download(), array.copy().download()):
        assert back.shape == host.shape
        assert back.dtype == host.dtype.newbyteorder("=")
        np.testing.assert_array_equal(back, host)


def test_an_upload_of_a_transpose_is_row_major(fake_cuda: CudaDevice) -> None:
    host = np.arange(12.0).reshape(3, 4).T
    np.testing.assert_array_equal(fake_cuda.upload(host).download(), host)
    array = fake_cuda.zeros((4, 3), float)
    array.write(host)
    np.testing.assert_array_equal(array.download(), host)


def test_views_share_memory_and_keep_it_alive(fake_cuda: CudaDevice, fake_driver: FakeDriver) -> None:
    host = np.arange(12, dtype=np.float32).reshape(4, 3)
    array = fake_cuda.upload(host)
    middle, flat = array.rows(1, 3), array.reshape((2, 6))
    assert middle.address == array.address + 12
    middle.write(np.zeros((2, 3), np.float32))
    host[1:3] = 0
    np.testing.assert_array_equal(flat.download(), host.reshape(2, 6))
    twin = array.copy()
    for start, stop in [(-2, 99), (3, 1), (4, 4), (0, -1)]:
        np.testing.assert_array_equal(array.rows(start, stop).download(), host[start:stop])
    address = array.address
    del array, flat
    assert fake_cuda.empty((4, 3), np.float32).address not in {address, twin.address}
    np.testing.assert_array_equal(middle.download(), np.zeros((2, 3)))
    del middle
    assert fake_cuda.empty((4, 3), np.float32).address == address


def test_memory_is_used_again(fake_cuda: CudaDevice, fake_driver: FakeDriver) -> None:
    for rows in (1000, 1000, 990, 1000):
        fake_cuda.zeros((rows, 784), np.float32)
    assert fake_driver.count("cuMemAlloc") == 1
    assert fake_driver.count("cuMemFree") == 0
    assert fake_cuda.gpu.pool.cached_bytes >= 1000 * 784 * 4
    fake_cuda.gpu.pool.trim()
    assert fake_cuda.gpu.pool.cached_bytes == 0
    assert fake_driver.count("cuMemFree") == 1


def test_memory_used_again_while_streams_are_open_waits_for_them(
    fake_cuda: CudaDevice, fake_driver: FakeDriver
) -> None:
    fake_cuda.empty((9,), "f4")
    fake_cuda.empty((9,), "f4")
    assert fake_driver.count("cuMemsetD8Async") == 0
    stream = fake_cuda.stream()
    fake_cuda.empty((9,), "f4")
    assert fake_driver.count("cuMemsetD8Async") == 1
    stream.close()
    fake_cuda.empty((9,), "f4")
    assert fake_driver.count("cuMemsetD8Async") == 1


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1024, 1025, 5000, 2**20 + 1, 3 * 2**30, 10**9 + 7])
def test_size_classes(size: int) -> None:
    block = size_class(size)
    assert block >= size
    assert block % 512 == 0
    assert block - size <= max(512, size / 4 + 1)
    assert size_class(block) == block


def test_memory_runs_out(fake_cuda: CudaDevice, fake_driver: FakeDriver) -> None:
    kept = fake_cuda.empty((2**20,), "u1")
    del kept
    fake_driver.failures["cuMemAlloc"] = [2]
    array = fake_cuda.empty((2**21,), "u1")
    assert fake_driver.count("cuMemFree") == 1
    assert array.nbytes == 2**21
    fake_driver.failures["cuMemAlloc"] = [2, 2]
    message = one_line(
        DeviceError, lambda: fake_cuda.empty((10**10,), "u1"), "CUDA_ERROR_OUT_OF_MEMORY", "1.0 GB of 80.0 GB"
    )
    assert "smaller batch" in message


def test_wrong_arrays_are_refused(fake_cuda: CudaDevice) -> None:
    array = fake_cuda.zeros((2, 3), "f4")
    one_line(UsageError, lambda: array.write(np.zeros((3, 2), "f4")), "(3, 2)", "(2, 3)")
    one_line(UsageError, lambda: array.write(np.zeros((2, 3), "f8")), "float64", "astype('float32')")
    one_line(UsageError, lambda: array.reshape((5,)), "(5,)")
    one_line(UsageError, lambda: fake_cuda.zeros((), "f4").rows(0, 1), "no rows")
    one_line(UsageError, lambda: fake_cuda.empty((1,), object), "object")
    one_line(UsageError, lambda: fake_cuda.empty((-1,), "f4"), "(-1,)")


def test_other_errors_of_the_driver(fake_cuda: CudaDevice, fake_driver: FakeDriver) -> None:
    fake_driver.failures["cuMemcpyHtoDAsync"] = [1]
    message = one_line(
        DeviceError, lambda: fake_cuda.upload(np.zeros(1000, "f4")), "CUDA_ERROR_INVALID_VALUE"
    )
    assert "cuda:0: copying 4.0 kB to the GPU" in message
    fake_cuda.upload(np.zeros(1000, "f4"))


def test_close_gives_everything_back_once(fake_driver: FakeDriver) -> None:
    device = CudaDevice(0)
    array, stream, event = device.zeros((4,), "f4"), device.stream(), device.event()
    kernel = device.load_ptx(PTX)["saxpy"]
    device.close()
    device.close()
    assert fake_driver.count("cuDevicePrimaryCtxRelease") == 1
    assert fake_driver.count("cuModuleUnload") == 1
    assert not fake_driver.memory
    for later in (array.download, array.copy, device.synchronize, stream.synchronize, event.record):
        one_line(DeviceError, later, "cuda:0 is closed")
    one_line(DeviceError, lambda: device.upload(np.zeros(4, "f4")), "cuda:0 is closed")
    one_line(DeviceError, partial(kernel.launch, 1, 1, (1, 1.0, array, array)), "cuda:0 is closed")
    stream.close()
    calls = len(fake_driver.calls)
    del array, event, later
    gc.collect()
    assert len(fake_driver.calls) == calls


def test_other_libraries_see_the_array(fake_cuda: CudaDevice, fake_driver: FakeDriver) -> None:
    array = fake_cuda.upload(np.arange(6, dtype=np.float32).reshape(2, 3))
    interface = array.__cuda_array_interface__
    assert interface["data"] == (array.address, False)
    assert (interface["shape"], interface["typestr"], interface["version"]) == ((2, 3), "<f4", 3)
    assert array.__dlpack_device__() == (2, 0)
    waited = fake_driver.count("cuCtxSynchronize")
    capsule = array.__dlpack__(stream=-1)
    assert fake_driver.count("cuCtxSynchronize") == waited
    address = array.address
    del array
    assert fake_cuda.empty((2, 3), "f4").address != address
    del capsule
    assert fake_cuda.empty((2, 3), "f4").address == address
    with pytest.raises(BufferError, match="download"):
        fake_cuda.empty((1,), "f4").__dlpack__(dl_device=(1, 0))
    with pytest.raises(BufferError, match="no dtype"):
        fake_cuda.empty((1,), "M8[s]").__dlpack__()


class Lent:
    """Host memory lent through nnkit's capsules, which NumPy can read."""

    def __init__(self, host: np.ndarray[Any, Any], version: tuple[int, int] | None = None):
        self.host = host
        self.version = version

    def __dlpack__(self, **wishes: Any) -> Any:
        host = self.host
        return dlpack.capsule(self, host.ctypes.data, host.shape, host.dtype, (dlpack.CPU, 0), self.version)

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CPU, 0


@pytest.mark.parametrize("version", [None, (1, 0), (1, 3)])
@pytest.mark.parametrize("dtype", ["i1", "u2", "i8", "f2", "f4", "f8", "c8", "?"])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3, 4)])
def test_capsules_are_what_numpy_expects(dtype: str, shape: tuple[int, ...], version: Any) -> None:
    host = np.ones(shape, dtype)
    lent = Lent(host, version)
    kept = weakref.ref(lent)
    seen = np.from_dlpack(lent)
    assert (seen.shape, seen.dtype) == (host.shape, host.dtype)
    np.testing.assert_array_equal(seen, host)
    del lent
    gc.collect()
    assert kept() is not None
    del seen
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize("version", [None, (1, 0)])
def test_a_capsule_that_nobody_takes_is_given_back_amid_an_exception(version: Any) -> None:
    lent = Lent(np.ones(3, np.float32), version)
    kept = weakref.ref(lent)

    def consume(lender: Lent) -> None:
        capsule = lender.__dlpack__()
        raise BufferError(f"not {type(capsule).__name__}")

    with pytest.raises(BufferError, match="not PyCapsule"):
        consume(lent)
    del lent
    gc.collect()
    assert kept() is None
