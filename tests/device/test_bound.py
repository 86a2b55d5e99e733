"""What belongs to a device is neither pickled nor copied by `copy`: one line that says what to do instead."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nnkit.device.cpu import CpuDevice
from nnkit.device.cuda import CudaDevice
from nnkit.device.virtual import VirtualDevice
from nnkit.errors import UsageError
from tests.support.fake_driver import PTX

WAYS = [pickle.dumps, copy.copy, copy.deepcopy, lambda it: pickle.dumps(it, 0), lambda it: pickle.dumps([it])]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["virtual", "fake"])
def test_what_belongs_to_a_device(
    request: pytest.FixtureRequest, kind: str, way: Callable[[Any], Any]
) -> None:
    device: Any = VirtualDevice() if kind == "virtual" else request.getfixturevalue("fake_cuda")
    module = device.load_ptx(PTX)
    array = device.zeros(4, np.float32)
    with pytest.raises(UsageError, match=r"Array .*array\.download\(\).*array\.copy\(\)"):
        way(array)
    for other in (device, module, module[module.kernels[0]]):
        with pytest.raises(UsageError, match="neither pickled nor copied by copy: open the device") as caught:
            way(other)
        assert "\n" not in str(caught.value)
    if isinstance(device, CudaDevice):
        for queue in (device.stream(), device.event()):
            with pytest.raises(UsageError):
                way(queue)
    else:
        device.close()


def test_arrays_of_the_host_and_what_is_downloaded() -> None:
    host = CpuDevice().upload(np.arange(3.0))
    for twin in (pickle.loads(pickle.dumps(host)), copy.deepcopy(host)):
        assert twin.download().tolist() == [0, 1, 2]
    device = VirtualDevice()
    downloaded = device.upload(np.arange(3.0)).download()
    assert pickle.loads(pickle.dumps(downloaded)).tolist() == [0, 1, 2]
    device.close()
