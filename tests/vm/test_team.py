"""Helper threads: every block runs once, whoever comes late, sleeps, is busy or is gone."""

import ctypes
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from nnkit.device.virtual import VirtualDevice
from nnkit.vm.run import launch, team
from nnkit.vm.run.team import Helper, Team

COUNT = """
extern "C" __global__ void count(int *seen, int turns)
{
    const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    float x = threadIdx.x;
    for (int i = 0; i < turns; i++)
        x = x * 0.5f + 1;
    atomicAdd(&seen[block], x < 1e30f);
}
"""

WORK = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)


def work(function: Callable[[int, int], object]) -> tuple[object, int]:
    """Something to post: what keeps it alive, and its address."""

    def called(context: int | None, worker: int | None) -> int:
        function(context or 0, worker or 0)
        return 0

    callback = WORK(called)
    return callback, ctypes.cast(callback, ctypes.c_void_p).value or 0


def until(condition: Callable[[], bool]) -> None:
    """Wait for it, 10 seconds at most."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.fixture
def helper() -> Iterator[Helper]:
    members = Team()
    (made,) = members.helpers(1)
    yield made
    members.close()


def asleep(helper: Helper) -> bool:
    return int(helper._box[0]) == team.ASLEEP


def test_work_is_done_by_the_helper_asleep_or_not(helper: Helper) -> None:
    done: list[tuple[int, int, int]] = []
    kept, run = work(lambda context, worker: done.append((context, worker, threading.get_ident())))
    context = (ctypes.c_int64 * 4)()
    address = ctypes.addressof(context)

    def has_done(count: int) -> Callable[[], bool]:
        return lambda: len(done) == count

    for number in range(50):
        if number % 10 == 0:
            until(lambda: asleep(helper))
        assert helper.post(run, address, number, wakes=True)
        until(has_done(number + 1))
        until(lambda: helper.recall(address))
    assert [worker for _, worker, _ in done] == list(range(50))
    assert {context for context, _, _ in done} == {address}
    assert {thread for _, _, thread in done} != {threading.get_ident()}
    assert kept


def test_who_sleeps_is_left_alone_unless_asked(helper: Helper) -> None:
    kept, run = work(lambda context, worker: None)
    until(lambda: asleep(helper))
    assert not helper.post(run, 64, 0, wakes=False)
    assert asleep(helper)
    assert helper.recall(64)
    assert asleep(helper)
    assert kept


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs two cores, and a system that lets threads choose",
)
def test_who_is_woken_keeps_off_the_core_of_the_launch(helper: Helper) -> None:
    kept, run = work(lambda context, worker: None)
    mine = os.sched_getaffinity(0)
    try:
        for core in sorted(mine):
            os.sched_setaffinity(0, {core})
            until(lambda: asleep(helper))
            assert helper.post(run, 64, 0, wakes=True)
            until(lambda: helper.recall(64))
            assert os.sched_getaffinity(helper._thread.native_id or 0) == mine - {core}
    finally:
        os.sched_setaffinity(0, mine)
    assert kept


def test_one_task_at_a_time(helper: Helper) -> None:
    """A second launch gets a refusal, and recalling what it never gave does not touch the first's work."""
    begun, end = threading.Event(), threading.Event()

    def wait(context: int, worker: int) -> None:
        begun.set()
        end.wait(10)

    kept, run = work(wait)
    assert helper.post(run, 64, 0, wakes=True)
    assert begun.wait(10)
    assert not helper.post(run, 128, 0, wakes=True)
    assert helper.recall(128)
    assert not helper.recall(64)
    end.set()
    until(lambda: helper.recall(64))
    assert kept


def test_work_that_was_not_begun_is_taken_back(helper: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    until(lambda: asleep(helper))
    done: list[int] = []
    kept, run = work(lambda context, worker: done.append(context))
    with monkeypatch.context() as muted:
        muted.setattr(helper, "_bell", queue.SimpleQueue())
        assert helper.post(run, 64, 0, wakes=True)
        assert helper.recall(64)
    # The bell, late: there is nothing to do any more, and the next one is served.
    helper._bell.put(True)
    assert helper.post(run, 128, 0, wakes=True)
    until(lambda: bool(done))
    until(lambda: helper.recall(128))
    assert done == [128]
    assert kept


def test_threads_end_with_the_team() -> None:
    before = set(threading.enumerate())
    members = Team()
    assert len(members.helpers(3)) == 3
    mine = set(threading.enumerate()) - before
    assert len(mine) == 3
    members.close()
    members.close()
    until(lambda: not mine & set(threading.enumerate()))


def test_no_more_threads_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """The launch goes on with those it has."""

    def fail(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    counted(VirtualDevice(threads=4), (300,), 3000)


def counted(device: VirtualDevice, grid: tuple[int, ...], turns: int) -> None:
    """Every block of the grid ran exactly once."""
    blocks = int(np.prod(grid))
    seen = device.zeros((blocks,), np.int32)
    kernel = device.compile(COUNT, name="count.cu")["count"]
    for launches in range(1, 4):
        kernel.launch(grid, 33, (seen, np.int32(turns)))
        assert (seen.host == 33 * launches).all()
    device.close()


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("grid", [(1,), (2,), (3,), (64,), (1000,), (3, 5), (2, 3, 7), (40, 30)])
def test_every_block_runs_once(threads: int, grid: tuple[int, ...]) -> None:
    counted(VirtualDevice(threads=threads), grid, 1000)


def test_helpers_that_never_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their parts of the grid are done by the launching thread, and nothing waits for them."""
    monkeypatch.setattr(Helper, "_live", lambda self: None)
    monkeypatch.setattr(launch, "WORTH_A_THREAD", 0.0)
    counted(VirtualDevice(threads=3), (500,), 100)


def test_launches_from_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """They share the helpers; who gets none does its blocks alone."""
    monkeypatch.setattr(launch, "WORTH_A_THREAD", 0.0)
    device = VirtualDevice(threads=3)
    kernel = device.compile(COUNT, name="count.cu")["count"]

    def go(seed: int) -> None:
        blocks = 50 + seed
        seen = device.zeros((blocks,), np.int32)
        for _ in range(100):
            kernel.launch(blocks, 64, (seen, np.int32(50)))
        assert (seen.host == 6400).all()

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(go, range(5)))
    device.close()


def test_blocks_may_wait_for_earlier_ones() -> None:
    """As in a sum that runs through the blocks: the order in which blocks are taken must allow it."""
    source = """
    extern "C" __global__ void chain(volatile int *done)
    {
        const int i = blockIdx.x;
        if (threadIdx.x == 0) {
            while (i > 0 && done[i - 1] == 0) {}
            done[i] = i == 0 ? 1 : done[i - 1] + 1;
        }
    }
    """
    for threads in (1, 2, 3):
        device = VirtualDevice(threads=threads)
        kernel = device.compile(source, name="chain.cu")["chain"]
        for _ in range(5):
            done = device.zeros((2000,), np.int32)
            kernel.launch(2000, 32, (done,))
            assert (done.host == np.arange(1, 2001)).all()
        device.close()


FORK = """
import os, sys
import numpy as np
from nnkit.device.virtual import VirtualDevice

device = VirtualDevice(threads=2)
kernel = device.compile(sys.stdin.read(), name="count.cu")["count"]

def check():
    seen = device.zeros((2000,), np.int32)
    for _ in range(5):
        kernel.launch(2000, 64, (seen, np.int32(200)))
    assert (seen.host == 320).all()

check()
child = os.fork()
check()
if child == 0:
    os._exit(0)
print(os.waitpid(child, 0)[1])
"""


def test_a_fork_has_no_helpers_but_goes_on() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK], input=COUNT, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.stdout, done.returncode) == ("0\n", 0), done.stderr
