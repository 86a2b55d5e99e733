"""A launch that prints ends soon after a signal, a fault elsewhere, or an output that fails."""

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from nnkit.device.virtual import VirtualDevice
from nnkit.errors import DeviceMemoryError, KernelError
from nnkit.vm.run import launch

LINES = 20000
SOURCE = r"""
extern "C" __global__ void chatter(int n) { for (int i = 0; i < n; i++) printf("%d", i); }
extern "C" __global__ void strays(int n, int *out)
{
    if (blockIdx.x == gridDim.x - 1 && n > 1) { while (*(volatile int *)(out + 1) == 0); out[1 << 24] = 1; }
    for (int i = 0; i < n; i++) printf("%d", i);
}
"""


@pytest.fixture(params=[1, 2])
def device(request: pytest.FixtureRequest) -> Iterator[VirtualDevice]:
    made = VirtualDevice(threads=request.param)
    yield made
    made.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGALRM])
def test_a_signal_ends_it_between_two_lines(device: VirtualDevice, number: signal.Signals) -> None:
    """The work that is left after the signal is counted: no line more in the thread that handles it."""
    kernel = device.compile(SOURCE, name="stop.cu")["chatter"]
    said: list[str] = []
    after: list[int] = []

    class Enough(Exception):
        pass

    def handler(*_: object) -> None:
        after.append(len(said))
        raise Enough

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 100 and not after:
            os.kill(os.getpid(), number)

    device.machine.output = say
    old = signal.signal(number, handler)
    try:
        with pytest.raises(Enough):
            kernel.launch(64, 64, (LINES,))
    finally:
        signal.signal(number, old)
    # One line of each thread may be on its way when the signal comes to the main thread.
    assert len(said) <= after[0] + 2 * device.threads
    # The negative control: without a signal all is printed, and the device goes on.
    said.clear()
    kernel.launch(2, 64, (3,))
    assert len(said) == 2 * 64 * 3


def test_a_handler_that_raises_nothing_stops_nothing(device: VirtualDevice) -> None:
    kernel = device.compile(SOURCE, name="stop.cu")["chatter"]
    rang, said = [], []

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 10:
            os.kill(os.getpid(), signal.SIGALRM)

    device.machine.output = say
    old = signal.signal(signal.SIGALRM, lambda *_: rang.append(1))
    try:
        kernel.launch(4, 64, (5,))
    finally:
        signal.signal(signal.SIGALRM, old)
    assert (len(said), len(rang)) == (4 * 64 * 5, 1)


def test_an_output_that_fails_ends_it(device: VirtualDevice) -> None:
    kernel = device.compile(SOURCE, name="stop.cu")["chatter"]
    calls: list[int] = []

    def gone(text: str) -> None:
        calls.append(threading.get_ident())
        raise BrokenPipeError(32, "Broken pipe")

    device.machine.output = gone
    with pytest.raises(BrokenPipeError):
        kernel.launch(64, 64, (LINES,))
    assert len(calls) <= device.threads


def test_a_fault_in_another_thread_ends_it() -> None:
    device = VirtualDevice(threads=2)
    kernel = device.compile(SOURCE, name="stop.cu")["strays"]
    out = device.zeros((2,), np.int32)
    count = [0]

    def say(text: str) -> None:
        count[0] += 1
        if count[0] == 100:
            out.host[1] = 1  # Lets the other thread go on, to its fault.

    device.machine.output = say
    # So that the second thread takes part: a small launch measures a block.
    kernel.launch(4, 64, (1, out))
    with pytest.raises(DeviceMemoryError, match="strays"):
        kernel.launch(2, 64, (LINES, out))
    assert count[0] < 2 * 64 * LINES // 4


@pytest.mark.parametrize("cost", [1e-10, 1e-9, 1e-7, 1e-6, 1e-4])
def test_looks_at_signals_follow_each_other_whatever_instructions_take(
    monkeypatch: pytest.MonkeyPatch, cost: float
) -> None:
    """A clock of our own says that an instruction takes `cost` seconds."""
    limit, clock, given = 100_000_000 if cost < 1e-6 else 2_000_000, [0.0], []
    refill = launch.Run.refill

    def timed(run: launch.Run, worker: int) -> int:
        clock[0] += cost * run.given.get(worker, (run.quantum, 0.0))[0]
        given.append(refill(run, worker))
        return given[-1]

    monkeypatch.setattr(launch, "time", SimpleNamespace(perf_counter=lambda: clock[0], sleep=time.sleep))
    monkeypatch.setattr(launch.Run, "refill", timed)
    device = VirtualDevice(threads=1)
    device.machine.limit = limit
    kernel = device.compile("__global__ void k(volatile int *x) { while (x[0] == 0); }\n")["k"]
    with pytest.raises(KernelError, match=f"NNKIT_MAX_INSTRUCTIONS={limit}"):
        kernel.launch(1, 32, (device.zeros((1,), np.int32),))
    wanted = min(max(launch.LOOK / cost, launch.LEAST_FUEL), launch.FUEL)
    # The last but one is what was left below the limit, the last is none.
    settled = given[len(given) // 2 : -2]
    assert settled or len(given) < 12
    assert all(wanted / 2 <= fuel <= wanted * 2 for fuel in settled)
    assert all(fuel <= 8 * before for before, fuel in itertools.pairwise(given))
    assert given[-1] == 0
