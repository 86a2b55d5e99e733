"""The device `cpu`: host arrays, time, and no kernels."""

import numpy as np
import pytest

from nnkit.device.cpu import CpuDevice
from nnkit.errors import UsageError


def test_the_device_cpu_runs_no_kernels() -> None:
    device = CpuDevice()
    with pytest.raises(UsageError, match='open_device\\("virtual"\\)'):
        device.compile("")
    with pytest.raises(UsageError, match='open_device\\("virtual"\\)'):
        device.load_ptx("")


def test_the_device_cpu_has_arrays_and_time() -> None:
    device = CpuDevice()
    array = device.zeros((2, 3), np.float32)
    twin = array.copy()
    array.reshape((6,)).rows(0, 3).write(np.ones(3, np.float32))
    np.testing.assert_array_equal(array.download(), np.array([[1, 1, 1], [0, 0, 0]], np.float32))
    np.testing.assert_array_equal(twin.download(), np.zeros((2, 3), np.float32))
    for wrong in (np.zeros((2, 3)), np.zeros((3, 2), np.float32)):
        with pytest.raises(UsageError, match="cannot write"):
            array.write(wrong)
    with pytest.raises(UsageError, match="numbers of elements differ"):
        array.reshape((4,))
    start, end = device.event(), device.event()
    with pytest.raises(UsageError, match="record"):
        end.elapsed_ms(start)
    start.record(device.stream())
    end.record()
    assert end.elapsed_ms(start) >= 0
    device.synchronize()
    device.stream().close()
