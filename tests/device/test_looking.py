"""Looking at arrays: indexing, iteration, views, what comes from the device for it."""

from typing import Any

import numpy as np
import pytest

from nnkit.device.cuda import CudaDevice
from nnkit.errors import UsageError
from tests.support.devices import AnyDevice
from tests.support.fake_driver import FakeDriver, one_line

HOST = np.arange(24, dtype=np.float32).reshape(4, 3, 2)


@pytest.mark.parametrize(
    "key",
    [
        0,
        -1,
        np.int64(2),
        slice(1, 3),
        slice(None, None, -1),
        slice(3, 1),
        (1, 2),
        (1, 2, 0),
        (slice(1, 3), 0),
        ...,
        (..., 1),
        None,
        [0, 2],
        np.array([True, False, True, False]),
        HOST > 5,
    ],
)
def test_indexing_is_numpys(each_device: AnyDevice, key: Any) -> None:
    found = each_device.upload(HOST)[key]
    assert type(found) is type(HOST[key])
    np.testing.assert_array_equal(found, HOST[key])


def test_what_is_looked_at_is_a_copy(each_device: AnyDevice) -> None:
    array = each_device.upload(HOST)
    row = array[1]
    with pytest.raises(ValueError, match="read-only"):
        row[0] = 5
    array.write(np.zeros(HOST.shape, np.float32))
    np.testing.assert_array_equal(row, HOST[1])
    one_line(UsageError, lambda: array.__setitem__(0, 5), "write(")
    assert len(array) == 4
    np.testing.assert_array_equal(list(each_device.upload(HOST)), list(HOST))
    assert 23 in each_device.upload(HOST)
    assert 24 not in each_device.upload(HOST)


@pytest.mark.parametrize("key", [4, -5, (0, 3), "x", 1.5, (0, 0, 0, 0), slice("a", None), [99], {}])
def test_indices_that_are_refused(each_device: AnyDevice, key: Any) -> None:
    one_line(
        UsageError, lambda: each_device.upload(HOST)[key], "index" if not isinstance(key, slice) else "rows"
    )


def test_arrays_without_axes(each_device: AnyDevice) -> None:
    array = each_device.upload(np.float32(5))
    assert array[()] == 5
    assert bool(array) is True
    one_line(UsageError, lambda: len(array), "length")
    one_line(UsageError, lambda: array[0], "index")
    one_line(UsageError, lambda: iter(array), "length")
    one_line(UsageError, lambda: bool(each_device.upload(HOST)), "true nor false")


def test_only_the_rows_that_are_looked_at_come_from_the_device(
    fake_cuda: CudaDevice, fake_driver: FakeDriver
) -> None:
    array = fake_cuda.zeros((1000, 1000), np.float32)
    fake_driver.calls.clear()
    assert array[999].tolist() == [0] * 1000
    copied = [args[2] for name, args in fake_driver.calls if name == "cuMemcpyDtoHAsync"]
    assert copied == [4000]


@pytest.mark.parametrize("to", ["u1", "i4", "f8", "i2,i2"])
def test_views_of_another_type(each_device: AnyDevice, to: str) -> None:
    array = each_device.upload(HOST)
    view = array.view(to)
    np.testing.assert_array_equal(view.download(), HOST.view(to))
    view.write(np.zeros(HOST.view(to).shape, to))
    assert not array.download().any()


def test_views_that_do_not_fit(each_device: AnyDevice) -> None:
    array = each_device.upload(np.zeros((4, 3), np.float32))
    one_line(UsageError, lambda: array.view("f8"), "12 bytes")
    one_line(UsageError, lambda: array.view("nonsense"), "NumPy knows no such type")
    one_line(UsageError, lambda: array.reshape((5,)), "numbers of elements")
    assert array.reshape((2, -1)).shape == (2, 6)
    assert array.reshape(12).shape == array.reshape(-1).shape == (12,)
