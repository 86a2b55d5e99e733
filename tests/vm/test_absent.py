"""Shuffles from lanes that are not there: told where the value counts, and never where it does not."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from nnkit.device.virtual import VirtualDevice, VirtualModule
from nnkit.errors import KernelError
from tests.support.sources import HEAD, line_of, report

WRONG = (
    HEAD
    + """
K(block_ends) { int t = threadIdx.x; out[t] = __shfl_down_sync(ALL, t, 16); } // block_ends
K(left) {
    int t = threadIdx.x; if (t >= n) return;
    out[t] = __shfl_down_sync(ALL, t, 1); // left
}
K(not_in_mask) {
    int t = threadIdx.x;
    if (t < 16) out[t] = __shfl_sync(0xFFFFu, t, t + 1); // not_in_mask
    else out[t] = 0;
}
K(elsewhere) {
    int t = threadIdx.x, v = t;
    if (t & 1) v = __shfl_xor_sync(0xAAAAAAAAu, t, 1); // elsewhere
    __syncwarp();
    out[t] = v;
}
K(computed) {
    int t = threadIdx.x; if (t >= n) return;
    float v = __shfl_down_sync(__activemask(), (float)t, 2); // computed
    v = sqrtf(v * 3.0f + 1.0f);
    out[t] = (int)v;
}
K(in_a_loop) {
    int t = threadIdx.x, v = in[t]; if (t >= n) return;
    #pragma unroll 1
    for (int d = 16; d; d /= 2) v += __shfl_down_sync(__activemask(), v, d); // in_a_loop
    if (t == 0) *out = v;
}
K(branched_on) {
    int t = threadIdx.x; if (t >= n) return;
    int v = __shfl_down_sync(__activemask(), t, 1); // branched_on
    if (v > 5) { out[t] = 1; __threadfence(); out[t + 1] = 1; }
}
K(an_address) {
    int t = threadIdx.x; if (t >= n) return;
    out[t] = in[__shfl_down_sync(__activemask(), t, 1) & 15]; // an_address
}
K(handed_on) {
    int t = threadIdx.x; if (t >= n) return;
    unsigned m = __activemask();
    int v = __shfl_down_sync(m, t, 1); // handed_on
    v = __shfl_sync(m, v, n - 1);
    if (t == 0) *out = v;
}
K(voted_on) {
    int t = threadIdx.x; if (t >= n) return;
    int v = __shfl_down_sync(__activemask(), t, 1); // voted_on
    out[t] = __any_sync(__activemask(), v == 3);
}
K(behind_a_barrier) {
    int t = threadIdx.x, u = t;
    int v = __shfl_down_sync(ALL, t, 16); // behind_a_barrier
    for (int k = 0; k < n; ++k) {
        __syncthreads();
        u += in[k];
        __syncthreads();
    }
    out[t] = u + v;
}
K(in_shared) {
    __shared__ int s[64];
    int t = threadIdx.x, v = t;
    if (t < n) v = __shfl_down_sync(__activemask(), t, 1); // in_shared
    s[t] = v; __syncthreads(); out[t] = s[0];
}
"""
)


@pytest.fixture(scope="module")
def device() -> Iterator[VirtualDevice]:
    device = VirtualDevice(threads=1)
    yield device
    device.close()


@pytest.fixture(scope="module")
def wrong(device: VirtualDevice) -> VirtualModule:
    return device.compile(WRONG, name="wrong.cu")


EXISTS, HERE, MASK = "does not exist", "is not here", "is not in the mask"


@pytest.mark.parametrize(
    ("name", "block", "n", "reader", "lane", "why"),
    [
        ("block_ends", 20, 0, 4, 20, EXISTS),
        ("block_ends", 52, 0, 36, 20, EXISTS),
        ("left", 32, 9, 8, 9, HERE),
        ("left", 9, 9, 8, 9, EXISTS),
        ("not_in_mask", 32, 0, 15, 16, MASK),
        ("elsewhere", 32, 0, 1, 0, MASK),
        ("computed", 32, 30, 28, 30, MASK),
        ("in_a_loop", 32, 20, None, None, MASK),
        ("in_a_loop", 20, 20, None, None, EXISTS),
        ("branched_on", 32, 20, 19, 20, MASK),
        ("an_address", 32, 5, 4, 5, MASK),
        ("handed_on", 32, 5, 4, 5, MASK),
        ("voted_on", 32, 5, 4, 5, MASK),
        ("behind_a_barrier", 20, 2, 4, 20, EXISTS),
        ("behind_a_barrier", 84, 0, 68, 20, EXISTS),
        ("behind_a_barrier", 84, 3, 68, 20, EXISTS),
        ("in_shared", 32, 5, 4, 5, MASK),
    ],
)
def test_a_value_that_counts(
    device: VirtualDevice,
    wrong: VirtualModule,
    name: str,
    block: int,
    n: int,
    reader: int | None,
    lane: int | None,
    why: str,
) -> None:
    given, out = device.zeros((64,), np.int32), device.zeros((64,), np.int32)
    with pytest.raises(KernelError, match=f"reads from lane .* {why}") as caught:
        wrong[name].launch(1, block, (given, out, n))
    found = report(caught.value)
    assert (found.kernel, found.line) == (name, line_of(WRONG, name))
    assert "\n" not in str(caught.value)
    if reader is not None:
        assert (found.thread[0], f"lane {lane} " in found.what) == (reader, True)


def test_the_same_kernels_on_whole_warps(device: VirtualDevice, wrong: VirtualModule) -> None:
    """Nothing to tell where every lane that is read is there."""
    given, out = device.zeros((64,), np.int32), device.zeros((65,), np.int32)
    for name in ("block_ends", "left", "computed", "in_a_loop", "branched_on", "an_address", "in_shared"):
        wrong[name].launch(1, 64, (given, out, 64))


RIGHT = (
    HEAD
    + """
K(guarded) {
    int t = threadIdx.x; if (t >= n) return;
    int v = in[t]; unsigned m = __activemask();
    for (int d = 16; d; d /= 2) { int u = __shfl_down_sync(m, v, d); if (t + d < n) v += u; }
    if (t == 0) *out = v;
}
K(guarded_loop) {
    int t = threadIdx.x; if (t >= n) return;
    int v = in[t]; unsigned m = __activemask();
    #pragma unroll 1
    for (int d = 16; d; d /= 2) { int u = __shfl_down_sync(m, v, d); if (t + d < n) v += u; }
    if (t == 0) *out = v;
}
K(guarded_largest) {
    // Both conditions in one: the compiler may compare what was never given.
    int t = threadIdx.x; if (t >= n) return;
    int v = in[t]; unsigned m = __activemask();
    for (int d = 16; d; d /= 2) { int u = __shfl_down_sync(m, v, d); if (t + d < n && u > v) v = u; }
    if (t == 0) *out = v;
}
K(only_lane_0_counts) {
    // Lanes at the end sum up what is undefined; nobody asks them.
    int t = threadIdx.x; if (t >= 16) return;
    int v = in[t];
    for (int d = 8; d; d /= 2) v += __shfl_down_sync(0xFFFFu, v, d);
    if (t == 0) *out = v;
}
K(stencil) {
    int t = threadIdx.x; if (t >= n) return;
    unsigned m = __activemask(); int v = in[t];
    int l = __shfl_up_sync(m, v, 1), r = __shfl_down_sync(m, v, 1);
    if (t == 0) l = 0;
    if (t == n - 1) { r = 0; if (in[0] == 77) r = in[1]; }
    out[t] = l + v + r;
}
K(segments) {
    int t = threadIdx.x; if (t >= 20) return;
    int v = in[t];
    v += __shfl_down_sync(0xFFFFFu, v, 2, 4); v += __shfl_down_sync(0xFFFFFu, v, 1, 4);
    out[t] = v;
}
K(scan) {
    int t = threadIdx.x; if (t >= n) return;
    int v = in[t];
    for (int d = 1; d < 32; d *= 2) {
        int u = __shfl_up_sync(ALL, v, d); if (t >= d) v += u;
    }
    out[t] = v;
}
K(living) {
    int t = threadIdx.x; if (t >= n) return;
    unsigned m = __ballot_sync(__activemask(), 1);
    int last = 31 - __clz(m);
    out[t] = __shfl_sync(m, in[t], last) + __popc(m) + __any_sync(m, in[t] == 3)
        + __reduce_add_sync(m, in[t]) + __popc(__match_any_sync(m, in[t]));
}
K(sides) {
    int t = threadIdx.x, v = in[t];
    if (t % 3) { unsigned m = __activemask(); v = __shfl_sync(m, v, __ffs(m) - 1); }
    else { unsigned m = __activemask(); v = __shfl_sync(m, v, 31 - __clz(m)); }
    out[t] = v;
}
K(kept_by_itself) {
    // In the thread's own memory it still says nothing.
    int t = threadIdx.x; if (t >= n) return;
    int a[4] = {0, 0, 0, 0};
    a[in[0] & 3] = __shfl_down_sync(__activemask(), in[t], 1);
    out[t] = t < n - 1 ? a[in[0] & 3] : 0;
}
K(over_barriers) {
    int t = threadIdx.x, u = 0;
    int v = __shfl_down_sync(ALL, in[t], 1), w = __shfl_up_sync(ALL, in[t], 1);
    for (int k = 0; k < n % 4 + 1; ++k) { __syncthreads(); u += in[k]; }
    out[t] = u + w + (t < n - 1 ? v : 0);
}
K(overwritten) {
    int t = threadIdx.x, v = 0; if (t >= n) return;
    for (int i = 0; i < 3; ++i) {
        v = __shfl_down_sync(__activemask(), in[t] + i, 1);
        if (t == n - 1) v = i;
        out[t] = v;
    }
}
"""
)

N = 21


def rights(x: Any) -> dict[str, Any]:
    """What each kernel leaves in `out`."""
    y = np.concatenate([[0], x[:N], [0]])
    t = np.arange(N)
    fours = np.arange(0, 20, 4)
    pieces = [x[i : i + 4] for i in fours]
    segment = np.array([p + np.where([1, 1, 0, 0], np.roll(p, -2), p) for p in pieces])
    segment = np.concatenate([p + np.where([1, 1, 1, 0], np.roll(p, -1), p) for p in segment])
    matches = np.array([(x[:N] == v).sum() for v in x[:N]])
    ends = np.append(x[1:N] + 2, 2)
    return {
        "guarded": [x[:N].sum()],
        "guarded_loop": [x[:N].sum()],
        "guarded_largest": [x[:N].max()],
        "only_lane_0_counts": [x[:16].sum()],
        "stencil": y[:-2] + y[1:-1] + y[2:],
        "segments": segment,
        "scan": np.cumsum(x[:N]),
        "living": x[N - 1] + N + (x[:N] == 3).any() + x[:N].sum() + matches,
        "sides": np.where(t % 3, x[1], x[18]),
        "kept_by_itself": np.append(x[1:N], 0),
        "over_barriers": x[:2].sum() + np.append(x[1:N], 0) + np.append(x[0], x[: N - 1]),
        "overwritten": ends,
    }


@pytest.mark.parametrize("block", [32, N])
def test_a_value_that_does_not_count(device: VirtualDevice, block: int) -> None:
    module = device.compile(RIGHT, name="right.cu")
    x = np.random.default_rng(5).integers(-9, 9, 32).astype(np.int32)
    for name, wanted in rights(x).items():
        if block == 32 and name == "sides":
            continue
        out = device.zeros((32,), np.int32)
        module[name].launch(1, block, (device.upload(x), out, N))
        assert out.host[: len(wanted)].tolist() == list(wanted), name


LIBRARIES = """
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cub/warp/warp_reduce.cuh>
#include <cub/warp/warp_scan.cuh>
namespace cg = cooperative_groups;
#define K(name) extern "C" __global__ void name(const int* in, int* out, int n)
K(tiles) {
    auto tile = cg::tiled_partition<8>(cg::this_thread_block());
    int t = threadIdx.x, v = in[t];
    for (int d = 4; d; d /= 2) v += tile.shfl_down(v, d);
    if (tile.thread_rank() == 0) out[t / 8] = v;
}
K(reduced) {
    auto tile = cg::tiled_partition<4>(cg::this_thread_block());
    out[threadIdx.x] = cg::reduce(tile, in[threadIdx.x], cg::plus<int>());
}
K(coalesced) {
    int t = threadIdx.x;
    if (t % 3 == 1) {
        auto active = cg::coalesced_threads();
        out[t] = cg::reduce(active, in[t], cg::plus<int>()) + active.shfl_down(in[t], 1) * 0;
    }
}
K(some_items) {
    typedef cub::WarpReduce<int> Reduce;
    __shared__ Reduce::TempStorage room;
    int total = Reduce(room).Sum(in[threadIdx.x], n);
    if (threadIdx.x == 0) *out = total;
}
K(scanned) {
    typedef cub::WarpScan<int> Scan;
    __shared__ Scan::TempStorage room;
    int v; Scan(room).InclusiveSum(in[threadIdx.x], v);
    out[threadIdx.x] = v;
}
K(small_warps) {
    typedef cub::WarpReduce<int, 8> Reduce;
    __shared__ Reduce::TempStorage room[4];
    int total = Reduce(room[threadIdx.x / 8]).Sum(in[threadIdx.x]);
    if (threadIdx.x % 8 == 0) out[threadIdx.x / 8] = total;
}
"""


@pytest.mark.slow
def test_libraries(device: VirtualDevice) -> None:
    """Cooperative groups and cub, in whole warps and in parts of them."""
    module = device.compile(LIBRARIES, name="libraries.cu")
    x = np.random.default_rng(6).integers(-99, 99, 32).astype(np.int32)

    def run(name: str, block: int) -> Any:
        out = device.zeros((32,), np.int32)
        module[name].launch(1, block, (device.upload(x), out, N))
        return out.host

    for block in (32, 24):
        eights = x[:block].reshape(-1, 8).sum(1).tolist()
        assert run("tiles", block)[: block // 8].tolist() == eights
        assert run("small_warps", block)[: block // 8].tolist() == eights
        fours = x[:block].reshape(-1, 4).sum(1)
        assert run("reduced", block)[:block].tolist() == np.repeat(fours, 4).tolist()
        assert run("scanned", block)[:block].tolist() == np.cumsum(x[:block]).tolist()
        thirds = x[1:block:3]
        assert run("coalesced", block)[1:block:3].tolist() == [thirds.sum()] * len(thirds)
        assert run("some_items", block)[0] == x[:N].sum()
