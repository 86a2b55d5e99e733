"""Threads of one warp that wait at different barriers: each arrives for itself, and they meet again."""

import math
from collections.abc import Iterator

import numpy as np
import pytest

from nnkit.device.virtual import VirtualDevice
from nnkit.errors import KernelError
from tests.support.programs.fuzz import numbers, run
from tests.support.programs.meetings import HEAD
from tests.support.sources import line_of, report
from tests.support.stress import examples


@pytest.fixture(params=[None, 32, 8, 1], ids="width {}".format)
def device(request: pytest.FixtureRequest) -> Iterator[VirtualDevice]:
    found = VirtualDevice(width=request.param, threads=1)
    yield found
    found.close()


def results(device: VirtualDevice, source: str, threads: int) -> list[int]:
    """What kernel `k` wrote, one number a thread."""
    x = device.zeros((threads,), np.int32)
    device.compile(HEAD + source, name="strands.cu")["k"].launch(1, threads, (x,))
    return [int(value) for value in x.download()]


@pytest.mark.slow
def test_random_programs() -> None:
    begun, failures = run("meetings", numbers(0, examples(20)))
    assert not failures, "\n\n".join(map(str, failures))
    assert begun == examples(20)


UNROLLED = """
extern "C" __global__ void k(int* x) {
    int t = threadIdx.x;
    __shared__ int here[2][1024];
    int own = t;
    for (int round = 0; ; ++round) {
        if (t * STEP % 128 < 5 * round) return;
        here[round & 1][t] = own;
        __syncthreads();
        own = 3 * own + here[round & 1][(t + 1) % blockDim.x] % 1000;
        x[t] = own;
    }
}
"""


def wrapped(value: int) -> int:
    """As an int of 32 bits."""
    return (value + 2**31) % 2**32 - 2**31


def rounds(threads: int, step: int) -> list[int]:
    """What UNROLLED leaves."""
    own, found = list(range(threads)), [0] * threads
    here = [[0] * 1024, [0] * 1024]
    for number in range(30):
        inside = [t for t in range(threads) if t * step % 128 >= 5 * number]
        for t in inside:
            here[number & 1][t] = own[t]
        for t in inside:
            neighbour = here[number & 1][(t + 1) % threads]
            own[t] = wrapped(3 * own[t] + int(math.fmod(neighbour, 1000)))
            found[t] = own[t]
    return found


@pytest.mark.parametrize(("threads", "step"), [(1024, 1), (100, 1), (64, 37), (33, 127)])
def test_a_loop_that_the_compiler_unrolls(device: VirtualDevice, threads: int, step: int) -> None:
    """Which copy of the barrier a thread waits at depends on how many rounds it has before it."""
    source = UNROLLED.replace("STEP", str(step))
    assert results(device, source, threads) == rounds(threads, step)


BOTH_SIDES = """
extern "C" __global__ void k(int* x) {
    int t = threadIdx.x, own = t * 7;
    if (t & 1) { x[t] = 1; sync(); own += 5; } else { x[t] = 2; sync(); own += 6; x[t] = 3; }
    BEHIND
    x[t] = own + __shfl_sync(~0u, own, (t + 1) & 31);
}
"""


def test_a_warp_is_whole_again_behind_a_barrier(device: VirtualDevice) -> None:
    own = [7 * t + (5 if t & 1 else 6) for t in range(64)]
    expected = [own[t] + own[t // 32 * 32 + (t + 1) % 32] for t in range(64)]
    assert results(device, BOTH_SIDES.replace("BEHIND", "sync();"), 64) == expected


def test_a_warp_that_is_not_whole_cannot_talk(device: VirtualDevice) -> None:
    """Behind different barriers threads go on in any order: a shuffle would read what is not there."""
    source = BOTH_SIDES.replace("BEHIND", "")
    with pytest.raises(KernelError, match=r"shfl.* names threads that are not here"):
        results(device, source, 64)


SIDES = """
extern "C" __global__ void k(int* x) {
    int t = threadIdx.x;
    if (t % 4) {
        x[t] = 1;
        __syncthreads(); // first
    } else {
        x[t] = 2;
        __syncthreads(); // second
        x[t] = 3;
    }
}
"""


def test_two_barriers_of_the_program_are_two(device: VirtualDevice) -> None:
    """`__syncthreads()` is for all threads at one place; only what the compiler copied is the same."""
    if device.machine.options.width == 1:
        pytest.skip("a vector of one lane is never apart")
    with pytest.raises(KernelError, match="only some threads of a warp reach") as caught:
        results(device, SIDES, 40)
    found = report(caught.value)
    first = found.line == line_of(HEAD + SIDES, "first")
    assert first or found.line == line_of(HEAD + SIDES, "second")
    assert found.thread == ((1, 0, 0) if first else (0, 0, 0))


def test_whoever_leaves_instead_is_told(device: VirtualDevice) -> None:
    """The compiler's copies do not hide a thread that never comes."""
    source = """
extern "C" __global__ void k(int* x) {
    int t = threadIdx.x;
    #pragma unroll 4
    for (int i = 0; i < t % 8; ++i) {
        x[t] += i;
        __syncthreads(); // here
    }
    x[t] += 100;
}
"""
    if device.machine.options.width == 1:
        pytest.skip("a vector of one lane is never apart")
    with pytest.raises(KernelError, match="only some threads of a warp reach") as caught:
        results(device, source, 64)
    assert report(caught.value).line == line_of(HEAD + source, "here")


def test_who_leaves_is_told_though_others_come(device: VirtualDevice) -> None:
    """One thread goes past the barrier while two groups of others wait at copies of it."""
    source = """
__device__ __forceinline__ void meet() { __syncthreads(); } // here
extern "C" __global__ void k(int* x) {
    int t = threadIdx.x;
    if (t % 4 > 1) { x[t] = 2; meet(); x[t] += 2; return; }
    if (t % 4 == 0) { x[t] = 1; meet(); }
    x[t] += 100;
}
"""
    if device.machine.options.width == 1:
        pytest.skip("a vector of one lane is never apart")
    with pytest.raises(KernelError, match="only some threads of a warp reach") as caught:
        results(device, source, 64)
    assert report(caught.value).line == line_of(HEAD + source, "here")


VOTES = """
__device__ int count(int p) {
    int n;
    asm volatile("{ .reg .pred q; setp.ne.s32 q, %1, 0; barrier.red.popc.u32 %0, 0, q; }"
                 : "=r"(n) : "r"(p) : "memory");
    return n;
}
extern "C" __global__ void k(int* x) {
    int t = threadIdx.x, found;
    if (t % 3 == 0) { x[t] = 1; found = count(t & 1); }
    else if (t % 3 == 1) found = 1000 + count(t & 2);
    else { found = count(1); found = found * 2 + 5000; }
    x[t] = found;
}
"""


def test_votes_at_different_barriers_are_one(device: VirtualDevice) -> None:
    votes = sum((t & 1, (t >> 1) & 1, 1)[t % 3] for t in range(80))
    expected = [(votes, 1000 + votes, 2 * votes + 5000)[t % 3] for t in range(80)]
    assert results(device, VOTES, 80) == expected


NAMED = """
__device__ void low() { asm volatile("barrier.sync 1, 64;" ::: "memory"); }
__device__ void high() { asm volatile("barrier.sync 2, 64;" ::: "memory"); }
extern "C" __global__ void k(int* x) {
    // Warps 0 and 1 meet twice at barrier 1, warp 2 and 3 once at barrier 2; each warp by two ways.
    __shared__ int here[128], there[64];
    int t = threadIdx.x, own = 0;
    here[t] = t;
    if (t < 64) {
        if (t % 2) { low(); own = here[63 - t]; there[t] = -t; }
        else { low(); own = 2 * here[63 - t]; x[t] = 5; there[t] = -t; }
        low();
        own += 1000 * there[(t + 1) % 64];
    } else {
        if (t % 4 == 3) { high(); own = here[191 - t]; }
        else { x[t] = 7; high(); own = 3 * here[191 - t]; }
    }
    x[t] = own;
}
"""


def test_named_barriers_count_whole_warps(device: VirtualDevice) -> None:
    """A warp has arrived when all of its threads have, wherever they are."""
    low = [(1 if t % 2 else 2) * (63 - t) - 1000 * ((t + 1) % 64) for t in range(64)]
    high = [(1 if t % 4 == 3 else 3) * (191 - t) for t in range(64, 128)]
    assert results(device, NAMED, 128) == low + high


def test_who_waits_where_is_told_for_parts_of_a_warp(device: VirtualDevice) -> None:
    source = """
extern "C" __global__ void k(int* x) {
    int t = threadIdx.x;
    if (t % 32 < 8) { x[t] = 1; asm volatile("barrier.sync 1;" ::: "memory"); }
    else if (t % 32 < 24) { asm volatile("barrier.sync 2;" ::: "memory"); x[t] = 2; }
}
"""
    with pytest.raises(KernelError, match="not all threads reach the same barrier") as caught:
        results(device, source, 32)
    said = str(caught.value)
    assert "threads 0 to 7 wait at barrier 1" in said
    assert "threads 8 to 23 wait at barrier 2" in said
    assert "threads 24 to 31 left the kernel" in said


WRITTEN_BY_THE_REST = """.version 8.6
.target sm_100
.address_size 64
.visible .entry k(.param .u64 out) {
  .reg .u64 %rd<4>; .reg .b32 %r<4>; .reg .pred %p<2>;
  ld.param.u64 %rd1, [out];
  mov.u32 %r1, %tid.x;
  mul.wide.u32 %rd2, %r1, 4;
  add.u64 %rd3, %rd1, %rd2;
  and.b32 %r2, %r1, 1;
  setp.ne.u32 %p1, %r2, 0;
  mov.u32 %r3, 1;
  @%p1 bra ODD;
  FIRST
  barrier.sync 0;
  bra JOIN;
ODD:
  SECOND
  barrier.sync 0;
JOIN:
  barrier.sync 0;
  st.global.u32 [%rd3], %r3;
  ret;
}
"""


@pytest.mark.parametrize("odd", [0, 1])
def test_what_the_rest_writes_is_its_own(device: VirtualDevice, odd: int) -> None:
    """A constant that is written behind the branch, where those who have parted no longer wait."""
    sides = ("mov.u32 %r3, 5;", "")
    text = WRITTEN_BY_THE_REST.replace("FIRST", sides[odd]).replace("SECOND", sides[1 - odd])
    x = device.zeros((64,), np.int32)
    device.load_ptx(text)["k"].launch(1, 64, (x,))
    assert list(x.download()) == [5 if t % 2 == odd else 1 for t in range(64)]


def test_what_the_machine_uses_itself_is_free_for_kernels(device: VirtualDevice) -> None:
    """The greater of two unsigned numbers, beside a barrier that counts its threads."""
    source = """
extern "C" __global__ void k(int* x) {
    __shared__ unsigned here[40];
    unsigned t = threadIdx.x;
    here[t] = t * 7u % 40u;
    if (t & 1) sync(); else { x[t] = 1; sync(); }
    x[t] = max(here[t], here[39 - t]) + min(here[t], 5u);
}
"""
    here = [t * 7 % 40 for t in range(40)]
    assert results(device, source, 40) == [max(here[t], here[39 - t]) + min(here[t], 5) for t in range(40)]
