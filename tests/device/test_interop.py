"""Arrays meet the world: NumPy, DLPack, arrays of other libraries as arguments."""

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from nnkit.device.cuda import CudaDevice
from nnkit.device.cuda.array import CudaArray
from nnkit.device.virtual import VirtualDevice
from nnkit.errors import DeviceMemoryError, LaunchError, UsageError
from tests.support.devices import AnyDevice, HostDevice, host_device_of
from tests.support.fake_driver import PTX, FakeDriver, one_line

TWICE = """
extern "C" __global__ void twice(int n, const float *x, float *y) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = 2 * x[i];
}
"""


@pytest.fixture(params=["cpu", "virtual"])
def host_device(request: pytest.FixtureRequest) -> Iterator[HostDevice]:
    """Each device whose memory is the host's."""
    device = host_device_of(request.param)
    yield device
    device.close()


@pytest.fixture
def virtual() -> Iterator[VirtualDevice]:
    """A device of its own, whose table holds nothing else."""
    found = VirtualDevice()
    yield found
    found.close()


HOST = np.arange(24, dtype=np.float32).reshape(4, 3, 2)


# -- NumPy --------------------------------------------------------------------------------------------------


def test_numpy_sees_numbers_and_the_memory_itself(host_device: HostDevice) -> None:
    array = host_device.upload(HOST)
    seen = np.asarray(array)
    assert (seen.dtype, seen.shape) == (HOST.dtype, HOST.shape)
    np.testing.assert_array_equal(seen, HOST)
    seen[1] = 7
    assert array.download()[1].tolist() == np.full((3, 2), 7).tolist()
    assert np.asarray(array, copy=False).ctypes.data == seen.ctypes.data
    assert np.array(array).ctypes.data != seen.ctypes.data
    as_int = np.asarray(array, np.int64)
    assert as_int.dtype == np.int64
    np.testing.assert_array_equal(as_int, seen)
    with pytest.raises(ValueError, match="copy"):
        np.asarray(array, np.int64, copy=False)
    assert float(np.sum(array)) == seen.sum()
    np.testing.assert_array_equal(
        array @ np.ones(2, np.float32) if hasattr(array, "__matmul__") else seen, seen
    )


def test_numpy_is_told_to_download_from_a_gpu(fake_cuda: CudaDevice) -> None:
    array = fake_cuda.upload(HOST)
    one_line(UsageError, lambda: np.asarray(array), "download()")
    one_line(UsageError, lambda: np.asarray(array, np.float64), "download()")


# -- DLPack -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["?", "i1", "u2", "i4", "i8", "f2", "f4", "f8", "c8", "c16"])
def test_dlpack_shares_the_memory_both_ways(host_device: HostDevice, dtype: str) -> None:
    array = host_device.upload(np.ones((3, 2), dtype))
    seen = np.from_dlpack(array)
    seen[1] = 0
    assert array.download().tolist() == seen.tolist()
    back = host_device.from_dlpack(seen)
    assert (back.dtype, back.shape) == (seen.dtype, seen.shape)
    back.write(np.zeros((3, 2), dtype))
    assert not array.download().any()
    assert np.from_dlpack(array, copy=True).ctypes.data != seen.ctypes.data


def test_what_is_lent_lives_as_long_as_it_is_used(host_device: HostDevice) -> None:
    class Watched(np.ndarray[Any, Any]):
        pass

    host = np.ones(1000, np.float32).view(Watched)
    kept = weakref.ref(host)
    array = host_device.from_dlpack(host)
    del host
    view = array.rows(10, 20)
    del array
    gc.collect()
    assert kept() is not None
    assert view.download().sum() == 10
    del view
    gc.collect()
    assert kept() is None
    seen = np.from_dlpack(host_device.upload(HOST))
    gc.collect()
    np.testing.assert_array_equal(seen, HOST)


def test_what_may_not_be_written_stays_so(virtual: VirtualDevice) -> None:
    host = np.ones(8, np.float32)
    host.flags.writeable = False
    array = virtual.from_dlpack(host)
    assert array.address == host.ctypes.data
    one_line(UsageError, lambda: array.write(np.zeros(8, np.float32)), "copy()")
    twice, out = virtual.compile(TWICE, name="twice.cu")["twice"], virtual.zeros(8, np.float32)
    twice.launch(1, 8, (8, array, out))
    assert out.download().tolist() == [2] * 8
    with pytest.raises(DeviceMemoryError, match="read-only"):
        twice.launch(1, 8, (8, out, array))
    assert host.tolist() == [1] * 8
    array.copy().write(np.zeros(8, np.float32))


def test_what_is_not_row_major_is_copied(host_device: HostDevice) -> None:
    host = np.arange(12.0).reshape(3, 4)
    for view in (host.T, host[:, ::2], host[::-1]):
        array = host_device.from_dlpack(view)
        np.testing.assert_array_equal(array.download(), view)
        array.write(np.zeros(view.shape))
    assert host.sum() == 66


def test_lent_memory_is_checked_like_any(virtual: VirtualDevice) -> None:
    host = np.zeros(16, np.float32)
    array = virtual.from_dlpack(host[4:12])
    twice = virtual.compile(TWICE, name="twice.cu")["twice"]
    twice.launch(1, 32, (8, array, array))
    for n in (9, 32):
        with pytest.raises(
            DeviceMemoryError, match=r"behind the end of an array of shape \(8,\) float32 in the"
        ):
            twice.launch(1, 32, (n, array, array))
    assert host[12:].tolist() == [0] * 4


@pytest.mark.parametrize("nonsense", [None, 5, "text", [1.0, 2.0], {}, object()])
def test_what_lends_nothing_is_refused(each_device: AnyDevice, nonsense: Any) -> None:
    one_line(UsageError, lambda: each_device.from_dlpack(nonsense), "DLPack")


def test_memory_of_a_gpu_is_none_of_the_host(host_device: HostDevice, fake_cuda: CudaDevice) -> None:
    array = fake_cuda.upload(HOST)
    one_line(UsageError, lambda: host_device.from_dlpack(array), "GPU", "copy")


@pytest.mark.parametrize("version", [None, (1, 0), (1, 9)])
def test_gpus_share_through_dlpack(fake_cuda: CudaDevice, version: Any) -> None:
    class Lender:
        """What another library's array is: it knows one version."""

        def __init__(self, array: CudaArray):
            self.array = array

        def __dlpack_device__(self) -> tuple[int, int]:
            return self.array.__dlpack_device__()

    class OldLender(Lender):
        """From before versions were asked for."""

        def __dlpack__(self, stream: int | None = None) -> Any:
            return self.array.__dlpack__(stream=stream)

    class NewLender(Lender):
        def __dlpack__(self, stream: int | None = None, max_version: Any = None) -> Any:
            assert stream == 1
            return self.array.__dlpack__(stream=stream, max_version=version)

    lender = (NewLender if version else OldLender)(fake_cuda.upload(HOST))
    kept = weakref.ref(lender.array._block)
    array = fake_cuda.from_dlpack(lender)
    assert array.address == lender.array.address
    del lender
    gc.collect()
    assert kept() is not None
    np.testing.assert_array_equal(array.download(), HOST)
    view = array.rows(1, 2)
    del array
    gc.collect()
    np.testing.assert_array_equal(view.download(), HOST[1:2])
    del view
    gc.collect()
    assert kept() is None


def test_a_gpu_takes_host_memory_by_copy(fake_cuda: CudaDevice) -> None:
    array = fake_cuda.from_dlpack(HOST)
    np.testing.assert_array_equal(array.download(), HOST)
    other = CudaDevice(1)
    theirs = other.upload(HOST)
    one_line(UsageError, lambda: fake_cuda.from_dlpack(theirs), "cuda:0")
    other.close()


# -- arguments ----------------------------------------------------------------------------------------------


def test_numpy_arrays_are_taken_in_their_place(virtual: VirtualDevice) -> None:
    twice = virtual.compile(TWICE, name="twice.cu")["twice"]
    x, y = np.arange(100, dtype=np.float32), np.zeros(100, np.float32)
    rows = len(virtual.machine.memory.snapshot().allocations)
    twice.launch(1, 128, (100, x, y))
    np.testing.assert_array_equal(y, 2 * x)
    # In place: two halves of one memory, and one array twice.
    twice.launch(1, 64, (50, x[:50], x[50:]))
    np.testing.assert_array_equal(x[50:], 2 * x[:50])
    twice.launch(1, 128, (100, y, y))
    np.testing.assert_array_equal(y, 4 * np.arange(100))
    twice.launch(1, 16, (10, y[5:20], y[5:20]))
    # Beside an array of the device.
    out = virtual.zeros(100, np.float32)
    twice.launch(1, 128, (100, x, out))
    np.testing.assert_array_equal(out.download(), 2 * x)
    twice.launch(1, 128, (100, np.asarray(out), np.asarray(out)))
    np.testing.assert_array_equal(out.download(), 4 * x)
    # And the device keeps nothing of it, not even of the last launch.
    twice.launch(1, 128, (100, x, y))
    kept = weakref.ref(x)
    assert len(virtual.machine.memory.snapshot().allocations) == rows + 1
    del x
    gc.collect()
    assert kept() is None


def test_numpy_arrays_are_checked(virtual: VirtualDevice) -> None:
    # PTX of before 10.0 does not say which parameters are pointers, and takes addresses.
    twice = virtual.compile(TWICE, name="twice.cu", arch="compute_90")["twice"]
    x, y = np.arange(100, dtype=np.float32), np.zeros(200, np.float32)
    with pytest.raises(
        DeviceMemoryError, match=r"end of an array of shape \(100,\) float32 in the program's"
    ):
        twice.launch(1, 128, (101, x, y))
    # The place before one that is lent, as an address: nothing else can be nearer.
    with pytest.raises(DeviceMemoryError, match=r"4 bytes before an array of shape \(100,\) float32 in the"):
        twice.launch(1, 1, (1, y[99:].ctypes.data, y[100:]))
    x.flags.writeable = False
    twice.launch(1, 128, (100, x, y))
    with pytest.raises(DeviceMemoryError, match="read-only"):
        twice.launch(1, 128, (100, y, x))
    # Two views of one memory, of which one is to be read only, and the other overlaps it.
    both = np.arange(8, dtype=np.float32)
    read = both[2:]
    read.flags.writeable = False
    twice.launch(1, 1, (1, read, both[:6]))
    assert both[0] == 4
    # A view of the device's own memory beside the whole.
    own = virtual.upload(np.arange(64, dtype=np.float32))
    twice.launch(1, 64, (64, own, own))
    twice.launch(1, 64, (4, np.asarray(own)[4:8], own.rows(32, 36)))
    twice.launch(1, 64, (64, np.asarray(own)[:], own))
    doubled = [2 * t for t in range(64)]
    doubled[32:36] = [16, 20, 24, 28]
    assert own.download().tolist() == [2 * value for value in doubled]
    # What is lent for a launch is not known after it.
    address = y.ctypes.data
    with pytest.raises(DeviceMemoryError):
        twice.launch(1, 1, (1, address, address))


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        (np.zeros((8, 2), np.float32).T, "contiguous"),
        (np.zeros(16, np.float32)[::2], "contiguous"),
        (np.zeros(8, ">f4"), "byte order"),
        (np.array([1, None]), "objects"),
        (np.ma.masked_array(np.zeros(8, np.float32), [True] * 8), "mask"),
        (np.zeros(8), "float32"),
        ([1.0, 2.0], "expected an array"),
        ("text", "expected an array"),
        (1.5, "expected an array"),
    ],
)
def test_arrays_that_are_refused(virtual: VirtualDevice, argument: Any, words: str) -> None:
    out = virtual.zeros(8, np.float32)
    twice = virtual.compile(TWICE, name="twice.cu")["twice"]
    one_line(LaunchError, lambda: twice.launch(1, 8, (8, argument, out)), "argument 2 of 3", words)


class Interface:
    """An array of another library, that has one interface."""

    memory: object = None
    """What keeps the memory alive."""

    def __init__(self, protocol: str, **fields: Any):
        setattr(self, protocol, {"version": 3, **fields})


def test_whoever_has_the_interface_is_taken(virtual: VirtualDevice) -> None:
    host, out = np.arange(8, dtype=np.float32), virtual.zeros(8, np.float32)
    foreign = Interface("__array_interface__", shape=(8,), typestr="<f4", data=(host.ctypes.data, False))
    twice = virtual.compile(TWICE, name="twice.cu")["twice"]
    twice.launch(1, 8, (8, foreign, out))
    np.testing.assert_array_equal(out.download(), 2 * host)
    wrong = Interface("__array_interface__", shape=(8,), typestr="nonsense", data=(host.ctypes.data, False))
    one_line(LaunchError, lambda: twice.launch(1, 8, (8, wrong, out)), "__array_interface__ is wrong")
    gpu = Interface("__cuda_array_interface__", shape=(8,), typestr="<f4", data=(1 << 40, False))
    one_line(LaunchError, lambda: twice.launch(1, 8, (8, gpu, out)), "GPU")


def cuda_interface(array: Any, **changes: Any) -> Interface:
    """Another library's array on the same memory."""
    fields = {"shape": array.shape, "typestr": array.dtype.str, "data": (array.address, False)}
    found = Interface("__cuda_array_interface__", **{**fields, "strides": None, **changes})
    found.memory = array
    return found


def test_a_gpu_takes_arrays_of_its_memory(fake_cuda: CudaDevice, fake_driver: FakeDriver) -> None:
    kernel = fake_cuda.load_ptx(PTX)["saxpy"]
    x, y = fake_cuda.upload(HOST), fake_cuda.zeros(HOST.shape, np.float32)
    address = x.address
    theirs = cuda_interface(x)
    kernel.launch(1, 32, (24, 2.0, theirs, y))
    assert kernel._packer.buffer.raw[8:16] == address.to_bytes(8, "little")
    kept = weakref.ref(theirs)
    del theirs, x
    gc.collect()
    # The kernel may still run.
    assert kept() is not None
    fake_cuda.synchronize()
    kernel.launch(1, 32, (24, 2.0, y, y))
    gc.collect()
    assert kept() is None
    kernel.launch(1, 32, (24, 2.0, cuda_interface(y, strides=(24, 8, 4)), y))
    waited = fake_driver.count("cuStreamSynchronize")
    kernel.launch(1, 32, (24, 2.0, cuda_interface(y, stream=1), y))
    assert fake_driver.count("cuStreamSynchronize") == waited
    kernel.launch(1, 32, (24, 2.0, cuda_interface(y, stream=77), y))
    assert fake_driver.count("cuStreamSynchronize") == waited + 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strides": (4, 16, 48)}, "contiguous"),
        ({"mask": object()}, "mask"),
        ({"data": (1 << 40, False)}, "memory of cuda:0"),
        ({"data": (1 << 40, True)}, "only be read"),
        ({"data": 5}, "is wrong"),
        ({"typestr": "nonsense"}, "is wrong"),
        ({"typestr": ">f4"}, "dtype"),
        ({"shape": "nonsense"}, "is wrong"),
        ({"version": None}, "is wrong"),
        ({"stream": 0}, "is wrong"),
    ],
)
def test_a_gpu_refuses_others(fake_cuda: CudaDevice, changes: dict[str, Any], words: str) -> None:
    kernel = fake_cuda.load_ptx(PTX)["saxpy"]
    y = fake_cuda.zeros((4, 3, 2), np.float32)
    wrong = cuda_interface(y, **changes)
    one_line(LaunchError, lambda: kernel.launch(1, 32, (24, 2.0, wrong, y)), "argument 3 of 4", words)
    one_line(LaunchError, lambda: kernel.launch(1, 32, (24, 2.0, HOST, y)), "upload")
