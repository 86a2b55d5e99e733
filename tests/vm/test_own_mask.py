"""Warp operations: a thread that its own mask leaves out, and members that have left."""

from collections.abc import Iterator

import numpy as np
import pytest

from nnkit.device.virtual import VirtualDevice
from nnkit.errors import KernelError
from tests.support.sources import HEAD, report


@pytest.fixture(scope="module")
def device() -> Iterator[VirtualDevice]:
    device = VirtualDevice(threads=1)
    yield device
    device.close()


OWN = (
    HEAD
    + """
K(shfl) { out[threadIdx.x] = __shfl_sync(n, 1, 0); }
K(ballot) { out[threadIdx.x] = __ballot_sync(n, 1); }
K(all) { out[threadIdx.x] = __all_sync(n, 1); }
K(match) { out[threadIdx.x] = __match_any_sync(n, 1); }
K(redux) { out[threadIdx.x] = __reduce_add_sync(n, 1); }
K(sync) { __syncwarp(n); out[threadIdx.x] = 1; }
K(each) { out[threadIdx.x] = __reduce_add_sync(1u << (threadIdx.x ^ n), 1); }
"""
)


@pytest.mark.parametrize("name", ["shfl", "ballot", "all", "match", "redux", "sync", "each"])
def test_a_thread_that_its_own_mask_leaves_out(device: VirtualDevice, name: str) -> None:
    kernel = device.compile(OWN, name="own.cu")[name]
    given, out = device.zeros((32,), np.int32), device.zeros((32,), np.int32)
    whole, short = (0, 1) if name == "each" else (-1, 0x7FFFFFFF)
    kernel.launch(1, 32, (given, out, whole))
    if name != "each":
        kernel.launch(1, 31, (given, out, short))
    with pytest.raises(KernelError, match="the thread itself is missing from") as caught:
        kernel.launch(1, 32, (given, out, short))
    assert report(caught.value).thread == ((0 if name == "each" else 31), 0, 0)


EXITS = (
    HEAD
    + """
K(skipped) {
    // As compilers write the end of a reduction: the others go past and leave.
    __shared__ int s[64];
    int t = threadIdx.x; s[t] = in[t]; __syncthreads();
    if (t < 2) { s[t] += s[t + 2]; __syncwarp(); }
    if (t == 0) *out = s[0] + s[1];
}
K(busy) {
    __shared__ int s[64];
    int t = threadIdx.x; s[t] = in[t]; __syncthreads();
    if (t < 2) { s[t] += s[t + 2]; __syncwarp(); if (t == 0) *out = s[0] + s[1]; }
    else for (int i = 0; i < t; ++i) out[t] += 1;
}
K(gone) {
    __shared__ int s[64];
    int t = threadIdx.x; s[t] = in[t]; __syncthreads();
    if (t >= 2) return;
    s[t] += s[t + 2]; __syncwarp();
    if (t == 0) *out = s[0] + s[1];
}
"""
)


@pytest.mark.parametrize("name", ["skipped", "busy", "gone"])
@pytest.mark.parametrize("block", [4, 32, 64])
def test_a_warp_is_synchronised_where_the_others_leave(device: VirtualDevice, name: str, block: int) -> None:
    kernel = device.compile(EXITS, name="exits.cu")[name]
    x, out = np.arange(1, 65, dtype=np.int32), device.zeros((64,), np.int32)
    kernel.launch(1, block, (device.upload(x), out, 0))
    assert out.host[0] == 10
    if name == "busy":
        assert out.host[2:block].tolist() == list(range(2, block))
