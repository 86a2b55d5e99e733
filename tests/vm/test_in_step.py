"""Warp-synchronous code: no barrier inside of a warp, in the forms that books and samples teach."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from nnkit.device.virtual import VirtualDevice, VirtualModule
from nnkit.vm.build import store
from nnkit.vm.prepare import program

REDUCTIONS = r"""
template <class T> struct Volatile { typedef volatile T type; };
template <class T, unsigned size> __device__ void last_warp(volatile T* s, unsigned t) {
    if (size >= 64) s[t] += s[t + 32];
    if (size >= 32) s[t] += s[t + 16];
    if (size >= 16) s[t] += s[t + 8];
    if (size >= 8) s[t] += s[t + 4];
    if (size >= 4) s[t] += s[t + 2];
    if (size >= 2) s[t] += s[t + 1];
}
template <class T, unsigned size> __device__ __noinline__ void called(volatile T* s, unsigned t) {
    last_warp<T, size>(s, t);
}
template <class T, unsigned size, int how> __device__ void reduce(const T* in, T* out) {
    // Room behind the end: the last warp reads s[t + 32] also where nothing is added.
    __shared__ T s[size + 64];
    __shared__ T other[size + 64];
    unsigned t = threadIdx.x;
    s[t] = in[t]; other[t] = 0;
    if (t < 64) s[size + t] = 0;
    __syncthreads();
    if (size >= 1024) { if (t < 512) s[t] += s[t + 512]; __syncthreads(); }
    if (size >= 512) { if (t < 256) s[t] += s[t + 256]; __syncthreads(); }
    if (size >= 256) { if (t < 128) s[t] += s[t + 128]; __syncthreads(); }
    if (size >= 128) { if (t < 64) s[t] += s[t + 64]; __syncthreads(); }
    if (t < 32) {
        if (how == 0) last_warp<T, size>(s, t);
        if (how == 1) called<T, size>(s, t);
        if (how == 2) called<T, size>(in[0] == (T)12345 ? other : s, t);
        if (how == 3) {
            #pragma unroll 1
            for (unsigned d = size < 64 ? size / 2 : 32; d > 0; d /= 2)
                ((volatile T*)s)[t] = ((volatile T*)s)[t] + ((volatile T*)s)[t + d];
        }
        if (how == 4) {
            if (size >= 64) { s[t] += s[t + 32]; __threadfence_block(); }
            for (unsigned d = 16; d > 0; d /= 2) if (t < d) { s[t] += s[t + d]; __threadfence_block(); }
        }
        if (how == 5) {
            // The halves above are left alone.
            volatile T* v = s;
            T mine = v[t];
            if (size >= 64) v[t] = mine = mine + v[t + 32];
            if (t < 16) {
                v[t] = mine = mine + v[t + 16]; v[t] = mine = mine + v[t + 8]; v[t] = mine = mine + v[t + 4];
                v[t] = mine = mine + v[t + 2]; v[t] = mine = mine + v[t + 1];
            }
        }
    }
    if (t == 0) *out = s[0];
}
#define EACH(T, size, how) \
    extern "C" __global__ void T##_##size##_##how(const T* in, T* out) { reduce<T, size, how>(in, out); }
#define SIZES(T, how) EACH(T, 32, how) EACH(T, 64, how) EACH(T, 128, how) EACH(T, 1024, how)
"""
FORMS = {"inlined": 0, "called": 1, "generic": 2, "loop": 3, "fence": 4, "registers": 5}


@pytest.fixture(scope="module")
def device() -> Iterator[VirtualDevice]:
    device = VirtualDevice(threads=1)
    yield device
    device.close()


@pytest.mark.parametrize(
    ("form", "type_"),
    [*((form, "int") for form in FORMS), ("inlined", "float"), ("generic", "float"), ("called", "double")],
)
def test_reductions(device: VirtualDevice, form: str, type_: str) -> None:
    how = FORMS[form]
    module = device.compile(f"{REDUCTIONS}SIZES({type_}, {how})", name="reduce.cu")
    for size in (32, 64, 128, 1024):
        check_sum(device, module, f"{type_}_{size}_{how}", type_, size)


def check_sum(device: VirtualDevice, module: VirtualModule, name: str, type_: str, size: int) -> None:
    dtype = {"int": np.int32, "float": np.float32, "double": np.float64}[type_]
    given = np.random.default_rng(size).integers(-1000, 1000, size).astype(dtype)
    out = device.zeros((1,), dtype)
    module[name].launch(1, size, (device.upload(given), out))
    # Whole numbers: every order of the sum is exact.
    assert out.host[0] == given.sum(), name


BLOCKS: tuple[Any, ...] = (32, 1024, 7, 48, (16, 3, 2), (5, 5, 5))

OTHERS = r"""
#define T (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z))
#define KERNEL(name) extern "C" __global__ void name(const int* in, int* out, volatile int* room)
KERNEL(scan) {
    // Inclusive, Hillis and Steele, in each warp.
    __shared__ volatile int s[1024];
    int t = T, lane = t % 32; s[t] = in[t];
    for (int d = 1; d < 32; d *= 2) if (lane >= d) s[t] = s[t] + s[t - d];
    out[t] = s[t];
}
KERNEL(padded) {
    // The same without a branch: zeros lie in front of each warp.
    __shared__ volatile int s[32 * 48];
    int t = T, i = t / 32 * 48 + t % 32; s[i] = 0; s[i + 16] = in[t];
    s[i + 16] += s[i + 15]; s[i + 16] += s[i + 14]; s[i + 16] += s[i + 12]; s[i + 16] += s[i + 8];
    s[i + 16] += s[i];
    out[t] = s[i + 16];
}
KERNEL(turned) {
    // Every warp reverses its own row.
    __shared__ volatile short s[1024];
    int t = T, first = t & ~31, threads = blockDim.x * blockDim.y * blockDim.z;
    int last = first + 31 < threads ? first + 31 : threads - 1;
    s[t] = in[t];
    out[t] = s[last - (t - first)];
}
KERNEL(shifted) {
    // Each reads what its neighbour is about to overwrite.
    __shared__ volatile int s[1024];
    int t = T; s[t] = in[t];
    for (int i = 0; i < 3; ++i) s[t] = s[t % 32 ? t - 1 : t];
    out[t] = s[t];
}
KERNEL(written_twice) {
    __shared__ volatile int s[1024];
    int t = T, threads = blockDim.x * blockDim.y * blockDim.z;
    s[t] = 1; if ((t ^ 16) < threads) s[t ^ 16] = in[t];
    __syncthreads();
    out[t] = s[t];
}
KERNEL(in_global) {
    int t = T, lane = t % 32; room[t] = in[t];
    for (int d = 1; d < 32; d *= 2) if (lane >= d) room[t] += room[t - d];
    out[t] = room[t];
}
KERNEL(fenced_in_global) {
    int t = T, lane = t % 32; int* plain = (int*)room; plain[t] = in[t]; __threadfence_block();
    for (int d = 1; d < 32; d *= 2) {
        int left = lane >= d ? plain[t - d] : 0; __threadfence_block();
        plain[t] += left; __threadfence_block();
    }
    out[t] = plain[t];
}
KERNEL(half_volatile) {
    __shared__ int s[1024];
    int t = T, lane = t % 32; *(volatile int*)&s[t] = in[t];
    for (int d = 1; d < 32; d *= 2) {
        int left = lane >= d ? *(volatile int*)&s[t - d] : 0;
        *(volatile int*)&s[t] = s[t] + left;
    }
    out[t] = s[t];
}
KERNEL(counted) {
    // An atomic operation beside volatile reads.
    __shared__ int s[32];
    int t = T, lane = t % 32; volatile int* v = s;
    if (lane == 0) v[t / 32] = 0;
    atomicAdd(&s[t / 32], in[t]);
    out[t] = v[t / 32];
}
"""


def in_warps(values: npt.NDArray[np.int32], rule: Any) -> npt.NDArray[np.int32]:
    rows = [values[start : start + 32] for start in range(0, len(values), 32)]
    return np.concatenate([rule(row) for row in rows]).astype(np.int32)


def written_twice(row: npt.NDArray[np.int32]) -> list[int]:
    return [row[t ^ 16] if t ^ 16 < len(row) else 1 for t in range(len(row))]


RULES: dict[str, Any] = {
    **dict.fromkeys(("scan", "padded", "in_global", "fenced_in_global", "half_volatile"), np.cumsum),
    "turned": lambda row: row[::-1],
    "shifted": lambda row: row[np.maximum(np.arange(len(row)) - 3, 0)],
    "written_twice": written_twice,
    "counted": lambda row: np.full(len(row), row.sum()),
}


@pytest.fixture(scope="module")
def others(device: VirtualDevice) -> VirtualModule:
    return device.compile(OTHERS, name="others.cu")


def outcome(device: VirtualDevice, module: VirtualModule, name: str, block: Any) -> tuple[Any, Any]:
    """What came out, and what a warp in step gives."""
    threads = int(np.prod(block))
    given = np.random.default_rng(threads).integers(-100, 100, threads).astype(np.int32)
    out, room = device.zeros((threads,), np.int32), device.zeros((threads,), np.int32)
    module[name].launch(1, block, (device.upload(given), out, room))
    return out.download(), in_warps(given, RULES[name])


@pytest.mark.parametrize("name", RULES)
def test_other_forms(device: VirtualDevice, others: VirtualModule, name: str) -> None:
    for block in BLOCKS:
        found, wanted = outcome(device, others, name, block)
        np.testing.assert_array_equal(found, wanted, f"{name}, block {block}")


def test_without_the_step_they_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: each of these kernels shows it when its warps do not go in step."""
    monkeypatch.setattr(program, "relies_on_step", lambda function: False)
    monkeypatch.setattr(store, "store", store._Nothing())
    device = VirtualDevice(width=16, threads=1)
    monkeypatch.setattr(store, "store", store._Nothing())
    module = device.compile(OTHERS, name="others.cu")
    for name in RULES:
        found, wanted = outcome(device, module, name, 1024)
        assert (found != wanted).any(), name
    device.close()


APART = r"""
extern "C" __global__ void apart(const int* in, int* out) {
    __shared__ volatile int s[64];
    int t = threadIdx.x; s[t] = in[t];
    __syncthreads();
    int sum = s[t] + s[63 - t];
    __syncthreads();
    out[t] = sum;
}
extern "C" __global__ void plain(const int* in, int* out) {
    __shared__ int s[64];
    int t = threadIdx.x; s[t] = in[t]; s[t] += t; __syncthreads(); out[t] = s[63 - t];
}
extern "C" __global__ void message(const int* in, int* out) {
    // Fences of data for other blocks, and a volatile variable of each thread.
    __shared__ int s[64];
    int t = threadIdx.x; volatile int own[2] = {in[t], 1}; s[t] = own[t % 2]; __syncthreads();
    out[t] = s[63 - t]; __threadfence(); atomicAdd(out + 64, 1);
}
extern "C" __global__ void together(const int* in, int* out) {
    __shared__ volatile int s[64];
    int t = threadIdx.x; s[t] = in[t]; out[t] = s[t ^ 1];
}
"""


def test_what_needs_no_step(device: VirtualDevice) -> None:
    """Barriers between all accesses that could meet: any width will do, and the usual one is taken."""
    module = device.compile(APART, name="apart.cu")
    needs = {name: module[name]._kernel.traits.warp_level for name in module.kernels}
    assert needs == {"apart": False, "plain": False, "message": False, "together": True}


RACES = r"""
template <bool again> __device__ void rounds(const int* in, int* out) {
    __shared__ int s[64];
    int t = threadIdx.x, sum = 0;
    for (int i = 0; i < 3; ++i) {
        s[t] = in[t] + i;
        __syncthreads();
        sum += s[63 - t];
        if (again) __syncthreads();
    }
    out[t] = sum;
}
extern "C" __global__ void with_a_race(const int* in, int* out) { rounds<false>(in, out); }
extern "C" __global__ void without(const int* in, int* out) { rounds<true>(in, out); }
"""


def test_memory_used_again_without_a_barrier_shows(device: VirtualDevice) -> None:
    """What GPUs mostly hide comes out wrong here, as the docs say, and right with the barrier."""
    module = device.compile(RACES, name="races.cu")
    given, out = np.arange(64, dtype=np.int32), device.zeros((64,), np.int32)
    wanted = 3 * given[::-1] + 3
    module["without"].launch(1, 64, (device.upload(given), out))
    np.testing.assert_array_equal(out.host, wanted)
    module["with_a_race"].launch(1, 64, (device.upload(given), out))
    assert (out.host != wanted).any()
