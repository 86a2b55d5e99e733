"""Barriers: threads meet, or the report says who waits where; and whatever does not end can be stopped."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from nnkit.device.virtual import VirtualDevice, VirtualModule
from nnkit.errors import CompileError, KernelError
from tests.support.sources import line_of, report

SOURCE = """
#define I threadIdx.x
extern "C" __global__ void divergent(int* x) {
    if (I % 2) {
        x[I] = 1;
        __syncthreads(); // divergent
    }
    x[I] += 1;
}
extern "C" __global__ void divergent_exit(int* x, int n) {
    // Those that leave do not wait; the others meet.
    if (I >= n) return;
    extern __shared__ int here[];
    here[I] = I;
    __syncthreads();
    x[I] = here[n - 1 - I];
}
extern "C" __global__ void divergent_return(int* x, int n) {
    // The same, where those that leave have something to do before.
    if (I >= n) {
        atomicSub(x + I, I);
        return;
    }
    extern __shared__ int here[];
    here[I] = I;
    __syncthreads();
    x[I] = here[n - 1 - I];
}
extern "C" __global__ void late(int* x) {
    for (int i = 0; i < 4; ++i) {
        if (I == 5 && i == 2) break;
        __syncthreads(); // late
    }
    x[I] = 1;
}
extern "C" __global__ void loop_of(int* x, int rounds) {
    extern __shared__ int here[];
    here[I] = I;
    for (int i = 0; i < rounds; ++i) {
        __syncthreads();
        int next = here[(I + 1) % blockDim.x];
        __syncthreads();
        here[I] = next;
    }
    x[I] = here[I];
}
extern "C" __global__ void conditional(int* x, int yes) {
    extern __shared__ int here[];
    here[I] = I;
    if (yes) __syncthreads();
    if (blockIdx.x == 0) __syncthreads();
    x[blockIdx.x * blockDim.x + I] = here[I ^ (yes ? 64 : 0)];
}
extern "C" __global__ void early(int* x) {
    int t = I;
    // NVRTC unrolls it: then threads of one warp wait at different copies of the barrier.
    for (int round = 0; ; ++round) {
        if (t < 37 * round) return;
        x[t] = round;
        __syncthreads();
    }
}
extern "C" __global__ void counts(int* x) {
    for (int i = 0; i <= (int)I / 32; ++i) __syncthreads(); // counts
    x[I] = 1;
}
extern "C" __global__ void two(int* x) {
    if (I < 64) asm volatile("bar.sync 1;" ::: "memory"); // one
    else asm volatile("bar.sync 2;" ::: "memory"); // two
    x[I] = 1;
}
extern "C" __global__ void short_of(int* x) {
    if (I < 32) asm volatile("bar.sync 3, 96;" ::: "memory"); // short
    else if (I < 64) asm volatile("bar.arrive 3, 96;" ::: "memory");
    x[I] = 1;
}
extern "C" __global__ void pipe(int* x, int rounds) {
    // Warp 0 produces, warps 1 to 3 consume.
    __shared__ int box[2];
    int sum = 0;
    if (I < 32) {
        for (int i = 0; i < rounds; ++i) {
            asm volatile("bar.sync %0, 128;" :: "r"(3 + i % 2) : "memory");
            if (I == 0) box[i % 2] = i * i;
            asm volatile("bar.arrive %0, 128;" :: "r"(1 + i % 2) : "memory");
        }
    } else {
        asm volatile("bar.arrive 3, 128;" ::: "memory");
        asm volatile("bar.arrive 4, 128;" ::: "memory");
        for (int i = 0; i < rounds; ++i) {
            asm volatile("bar.sync %0, 128;" :: "r"(1 + i % 2) : "memory");
            sum += box[i % 2];
            if (i + 2 < rounds) asm volatile("bar.arrive %0, 128;" :: "r"(3 + i % 2) : "memory");
        }
    }
    x[I] = sum;
}
extern "C" __global__ void halves(int* x) {
    __shared__ int here[128];
    here[I] = I;
    int half = I / 64;
    for (int i = 0; i < 1 + 3 * half; ++i) {
        asm volatile("bar.sync %0, 64;" :: "r"(1 + half) : "memory");
        int next = here[64 * half + (I + 1) % 64];
        asm volatile("bar.sync %0, 64;" :: "r"(1 + half) : "memory");
        here[I] = next;
    }
    x[I] = here[I];
}
extern "C" __global__ void votes(int* x, int n, int a, int b) {
    if (I >= n) return;
    int count = __syncthreads_count(I % 3 == 0);
    int all = __syncthreads_and(I < a);
    int any = __syncthreads_or(I == b);
    int left = count;
    do { --left; } while (left > 3);
    x[I] = count + 10000 * (all != 0) + 20000 * (any != 0) + 40000 * left;
}
extern "C" __global__ void spin(volatile int* x, int barrier) {
    while (x[0] == 0) {
        if (barrier) __syncthreads();
    }
    x[1] = 1;
}
extern "C" __global__ void nested(volatile int* x) {
    if (I % 3 == 1) while (x[0] == 0) if (x[2]) x[3] = I;
}
extern "C" __global__ void one(int* x) {
    if (I == 0) atomicAdd(x + 1, 1);
}
"""


@pytest.fixture(scope="module", params=[None, 32, 8], ids="width {}".format)
def module(request: pytest.FixtureRequest) -> Iterator[VirtualModule]:
    device = VirtualDevice(width=request.param, threads=1)
    yield device.compile(SOURCE, name="barriers.cu")
    device.close()


def result(module: VirtualModule, name: str, threads: Any, *args: int, shared: int = 4096) -> list[int]:
    """What the kernel wrote, one number a thread."""
    kernel = module[name]
    x = kernel._device.zeros((int(np.prod(threads)),), np.int32)
    kernel.launch(1, threads, (x, *args), shared_bytes=shared)
    return [int(value) for value in x.download()]


def refusal(module: VirtualModule, name: str, threads: int, *args: int) -> str:
    with pytest.raises(KernelError) as caught:
        result(module, name, threads, *args)
    # The device goes on.
    assert result(module, "divergent_exit", 4, 4) == [3, 2, 1, 0]
    return str(caught.value)


@pytest.mark.parametrize("threads", [2, 17, 64, 1024])
def test_a_barrier_that_only_some_reach(module: VirtualModule, threads: int) -> None:
    with pytest.raises(KernelError, match="only some threads of a warp reach") as caught:
        result(module, "divergent", threads)
    found = report(caught.value)
    assert (found.line, found.block, found.thread) == (line_of(SOURCE, "divergent"), (0, 0, 0), (1, 0, 0))
    assert result(module, "divergent", 1) == [1]
    if threads > 5:
        with pytest.raises(KernelError, match="only some threads of a warp reach") as caught:
            result(module, "late", threads)
        assert report(caught.value).line == line_of(SOURCE, "late")


@pytest.mark.parametrize("threads", [1, 17, 33, 1000, 1024])
def test_blocks_of_any_size(module: VirtualModule, threads: int) -> None:
    for n in {threads, -(-threads // 2), 1}:
        assert result(module, "divergent_exit", threads, n) == [*range(n - 1, -1, -1), *[0] * (threads - n)]
        left = [-t for t in range(n, threads)]
        assert result(module, "divergent_return", threads, n) == [*range(n - 1, -1, -1), *left]
    rotated = [(t + 5) % threads for t in range(threads)]
    assert result(module, "loop_of", threads, 5) == rotated
    assert result(module, "early", threads) == [t // 37 for t in range(threads)]


def test_a_condition_that_is_the_same_for_all(module: VirtualModule) -> None:
    assert result(module, "conditional", 128, 1) == [t ^ 64 for t in range(128)]
    assert result(module, "conditional", 128, 0) == list(range(128))
    kernel = module["conditional"]
    x = kernel._device.zeros((3, 128), np.int32)
    kernel.launch(3, 128, (x, 1), shared_bytes=512)
    assert (x.host == np.arange(128) ^ 64).all()


def test_warps_that_meet_at_different_barriers(module: VirtualModule) -> None:
    said = refusal(module, "two", 100)
    assert "kernel two, block (0, 0, 0): not all threads reach the same barrier" in said
    one, two = line_of(SOURCE, "one"), line_of(SOURCE, "two")
    assert re.search(rf"threads 0 to 63 wait at barrier 1 \([^()]*barriers.cu:{one}\)", said), said
    assert re.search(rf"threads 64 to 99 wait at barrier 2 \([^()]*barriers.cu:{two}\)", said), said


def test_too_few_arrive(module: VirtualModule) -> None:
    said = refusal(module, "short_of", 128)
    assert "threads 0 to 31 wait at barrier 3 for 96 threads" in said
    assert "threads 32 to 127 left the kernel" in said
    assert "32 threads arrived at barrier 3 without waiting" in said


def test_different_counts_end_with_those_that_left(module: VirtualModule) -> None:
    """A warp that has ended is not waited for, on the hardware as here."""
    assert result(module, "counts", 128) == [1] * 128


def test_named_barriers(module: VirtualModule) -> None:
    assert result(module, "pipe", 128, 9) == [0] * 32 + [sum(i * i for i in range(9))] * 96
    expected = [(t + 1) % 64 for t in range(64)] + [64 + (t + 4) % 64 for t in range(64)]
    assert result(module, "halves", 128) == expected


@pytest.mark.parametrize(("threads", "n"), [(1, 1), (17, 17), (33, 33), (128, 128), (1000, 1000), (128, 71)])
def test_votes(module: VirtualModule, threads: int, n: int) -> None:
    for a, b in ((n, n), (n - 1, n - 1), (0, 0)):
        count = len(range(0, n, 3))
        left = max(min(count - 1, 3), 3 if count > 3 else count - 1)
        word = count + 10000 * (a == n) + 20000 * (b < n) + 40000 * left
        assert result(module, "votes", threads, n, a, b) == [word] * n + [0] * (threads - n)


COUNTED = """
.version 8.0
.target sm_80
.address_size 64
.visible .entry counted(.param .u64 counted_param_0)
{
    .reg .pred %p<3>; .reg .b32 %r<4>; .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [counted_param_0];
    mov.u32 %r1, %tid.x;
    setp.lt.u32 %p1, %r1, 5;
    bar.red.popc.u32 %r2, 0, %p1;
LOOP:
    atom.global.add.u32 %r3, [%rd1], 1;
    sub.u32 %r2, %r2, 1;
    setp.ne.u32 %p2, %r2, 0;
    @%p2 bra LOOP;
    ret;
}
"""


def test_a_loop_right_behind_a_vote() -> None:
    """The vote's result is read once, not in every round."""
    device = VirtualDevice(threads=1)
    device.machine.limit = 1_000_000
    x = device.zeros((1,), np.int32)
    device.load_ptx(COUNTED)["counted"].launch(1, 32, (x,))
    assert x.host[0] == 5 * 32
    device.close()


@pytest.mark.parametrize("threads", [1, 3])
def test_the_limit_of_instructions(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    monkeypatch.setenv("NNKIT_MAX_INSTRUCTIONS", "300000")
    device = VirtualDevice(threads=threads)
    module = device.compile(SOURCE, name="barriers.cu")
    x = device.zeros((64,), np.int32)
    for name, args in (("spin", (x, 0)), ("spin", (x, 1)), ("nested", (x,))):
        for block in (2, 33, 1024):
            with pytest.raises(
                KernelError, match=rf"kernel {name} was stopped .*NNKIT_MAX_INSTRUCTIONS=300000"
            ):
                module[name].launch(7, block, args)
    module["one"].launch(1, 32, (x,))
    assert x.host[:4].tolist() == [0, 1, 0, 0]
    device.close()


def test_many_empty_blocks_are_stopped_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNKIT_MAX_INSTRUCTIONS", "1000000")
    device = VirtualDevice(threads=1)
    x = device.zeros((4,), np.int32)
    kernel = device.compile('extern "C" __global__ void nothing(int* x) {}')["nothing"]
    kernel.launch(1000, 32, (x,))
    with pytest.raises(KernelError, match="NNKIT_MAX_INSTRUCTIONS"):
        kernel.launch(1 << 26, 1024, (x,))
    device.close()


ENDLESS = """
import sys
import time
import numpy as np
from nnkit.device.virtual import VirtualDevice

device = VirtualDevice(threads=int(sys.argv[1]))
module = device.compile(sys.stdin.read(), name="barriers.cu")
x = device.zeros((4,), np.int32)
module["one"].launch(1, 32, (x,))
module["spin"]._kernel.variant((64, 1, 1), True)
caught = 0
try:
    # Where the machine is busy the signal may come before the launch.
    print("ready", flush=True)
    module["spin"].launch(8, 64, (x, int(sys.argv[2])))
except KeyboardInterrupt:
    caught += 1
try:
    time.sleep(0.1)
except KeyboardInterrupt:
    caught += 1
module["one"].launch(1, 32, (x,))
print(caught, x.host.tolist())
"""


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("barrier", [0, 1])
@pytest.mark.parametrize("delay", [0.002, 0.15])
def test_ctrl_c(threads: int, barrier: int, delay: float) -> None:
    """It ends the kernel at once, it is raised once, and the device goes on."""
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(threads), str(barrier)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "NNKIT_MAX_INSTRUCTIONS": ""},
    )
    assert process.stdin
    assert process.stdout
    try:
        process.stdin.write(SOURCE)
        process.stdin.close()
        assert process.stdout.readline() == "ready\n"
        time.sleep(delay)
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.stdin = None
        said, errors = process.communicate(timeout=10)
        assert time.monotonic() - sent < 2
    finally:
        process.kill()
    assert (process.returncode, said, errors) == (0, "1 [0, 2, 0, 0]\n", "")


def test_what_a_handler_raises_ends_the_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A timer's handler too; one that raises nothing changes nothing."""
    device = VirtualDevice(threads=2)
    module = device.compile(SOURCE, name="barriers.cu")
    x = device.zeros((4,), np.int32)
    rang = []

    def ring(number: int, frame: object) -> None:
        rang.append(number)
        if len(rang) > 1:
            raise TimeoutError("enough")

    old = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.1)
        with pytest.raises(TimeoutError, match="enough"):
            module["spin"].launch(4, 64, (x, 1))
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert signal.getsignal(signal.SIGALRM) is ring
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert len(rang) == 2
    module["one"].launch(1, 32, (x,))
    assert x.host.tolist() == [0, 1, 0, 0]
    device.close()


def test_a_grid_wide_barrier_is_called_so() -> None:
    """Cooperative groups find it by a register that the driver sets."""
    text = (
        ".version 8.0\n.target sm_90\n.address_size 64\n"
        ".visible .entry k()\n{ .reg .b32 %r<2>; mov.u32 %r1, REGISTER; ret; }"
    )
    device = VirtualDevice(threads=1)
    with pytest.raises(CompileError, match="grid-wide barrier"):
        device.load_ptx(text.replace("REGISTER", "%envreg2"))["k"].launch(1, 1, ())
    device.load_ptx(text.replace("REGISTER", "%warpid"))["k"].launch(1, 1, ())
    device.close()
