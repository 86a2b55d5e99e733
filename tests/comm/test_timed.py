"""Sums with a clock: what waiting costs, and arrays that the host does not see."""

import time
from typing import Any

import numpy as np
import pytest

from nnkit.comm import mpi_library
from nnkit.comm.timed import TimedSum
from nnkit.contracts import HostArray, Traffic
from nnkit.device.cpu import CpuDevice


class OnDevice:
    """An array on a GPU, as far as a sum can tell."""

    def __init__(self, values: Any):
        self.memory = np.array(values, np.float32)
        self.nbytes = self.memory.nbytes
        self.copies: list[str] = []
        self.device = self

    def synchronize(self) -> None:
        self.copies.append("synchronize")

    def download(self) -> Any:
        self.copies.append("download")
        return self.memory.copy()

    def write(self, host: Any) -> None:
        self.copies.append("write")
        self.memory[...] = host


def on_host(*values: float) -> HostArray:
    """An array whose memory the host sees."""
    return CpuDevice().upload(np.array(values, np.float32))


class Doubled:
    """The sum of two ranks that hold the same: complete at the third look, or after a wait."""

    def __init__(self, buffer: Any, seconds: float = 0.0):
        self.buffer, self.looks, self.seconds = buffer, 0, seconds

    def progress(self) -> bool:
        self.looks += 1
        if self.looks == 3:
            self.wait()
        return self.looks == 3

    def wait(self) -> None:
        time.sleep(self.seconds)
        memory = getattr(self.buffer, "memory", self.buffer)
        memory *= 2


def test_an_array_on_a_gpu_goes_through_the_host() -> None:
    array, traffic = OnDevice([1, 2, 3]), Traffic()
    sum_ = TimedSum(array, Doubled, traffic)
    assert array.memory.tolist() == [1, 2, 3]
    sum_.wait()
    sum_.wait()
    assert array.memory.tolist() == [2, 4, 6]
    assert array.copies == ["download", "write"]
    assert (traffic.sums, traffic.bytes) == (1, 12)


def test_or_stays_there_if_the_transport_reaches_it() -> None:
    """Then the kernels that compute it must be done before."""
    array, traffic = OnDevice([1, 2, 3]), Traffic()
    sum_ = TimedSum(array, Doubled, traffic, direct=True)
    assert [sum_.progress() for _ in range(4)] == [False, False, True, True]
    assert array.memory.tolist() == [2, 4, 6]
    assert array.copies == ["synchronize"]
    assert traffic.bytes == 12


def test_host_memory_is_summed_where_it_is() -> None:
    array = on_host(1, 2)
    seen: list[Any] = []

    def start(buffer: Any) -> Doubled:
        seen.append(buffer)
        return Doubled(buffer)

    TimedSum(array, start, Traffic(), direct=True).wait()
    assert seen == [array.host]
    assert seen[0] is array.host
    assert array.host.tolist() == [2, 4]


def test_waiting_is_exposed_and_the_rest_hidden() -> None:
    traffic = Traffic()
    exposed = TimedSum(on_host(1), lambda buffer: Doubled(buffer, 0.02), traffic)
    exposed.wait()
    assert 0.02 <= traffic.exposed < 1
    assert traffic.hidden < 0.01
    hidden, traffic.exposed = TimedSum(on_host(1), Doubled, traffic), 0.0
    time.sleep(0.02)
    hidden.wait()
    assert traffic.hidden >= 0.02
    assert traffic.exposed < 0.01


@pytest.mark.parametrize("answer", [0, 1])
def test_whether_mpi_reaches_gpus_is_asked_of_it(monkeypatch: pytest.MonkeyPatch, answer: int) -> None:
    class Library:
        """As the C library of an MPI that can be asked."""

        @staticmethod
        def MPIX_Query_cuda_support() -> int:
            return answer

    class Mpi:
        __file__ = "mpi.so"

    monkeypatch.setattr(mpi_library, "load", Mpi)
    monkeypatch.setattr("ctypes.CDLL", lambda name: Library if name == "mpi.so" else object())
    mpi_library.reaches_gpus.cache_clear()
    assert mpi_library.reaches_gpus() is bool(answer)
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    mpi_library.reaches_gpus.cache_clear()
    assert mpi_library.reaches_gpus() is False
    mpi_library.reaches_gpus.cache_clear()
