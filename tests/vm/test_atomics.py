"""Atomic operations with conflicts inside of a warp, across warps, blocks and threads: nothing is lost."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from nnkit.device.virtual import VirtualDevice, VirtualModule

TYPES = {"s32": "int", "u32": "unsigned", "s64": "long long", "u64": "unsigned long long"}
DTYPES = {
    "s32": np.int32,
    "u32": np.uint32,
    "s64": np.int64,
    "u64": np.uint64,
    "f32": np.float32,
    "f64": np.float64,
}
OPERATIONS = [
    *[("add", t) for t in ("s32", "u32", "u64", "f32", "f64")],
    *[(op, t) for op in ("min", "max") for t in TYPES],
    *[(op, f"b{bits}") for op in ("and", "or", "xor", "exch") for bits in (32, 64)],
    ("inc", "u32"),
    ("dec", "u32"),
]
CTYPES = {**TYPES, "f32": "float", "f64": "double", "b32": "unsigned", "b64": "unsigned long long"}
LETTER = {"32": "r", "64": "l"}


def kernel(operation: str, kind: str) -> str:
    """Every thread applies its value to one of `cells` places, global or shared, and keeps the old."""
    ctype, letter = CTYPES[kind], {"f32": "f", "f64": "d"}.get(kind) or LETTER[kind[-2:]]

    def asm(space: str, place: str) -> str:
        return (
            f'asm volatile("atom.{space}.{operation}.{kind} %0, [%1], %2;" '
            f': "={letter}"(old) : "l"({place}), "{letter}"(v) : "memory");'
        )

    return f"""
extern "C" __global__ void {operation}_{kind}(
    const {ctype}* x, {ctype}* y, {ctype}* olds, int cells, int shared
) {{
    __shared__ {ctype} here[64];
    int t = threadIdx.x, i = blockIdx.x * blockDim.x + t;
    if (t < cells) here[t] = y[t];
    __syncthreads();
    {ctype} v = x[i], old;
    if (shared) {asm("shared", "__cvta_generic_to_shared(here + i % cells)")}
    else {asm("global", "y + i % cells")}
    olds[i] = old;
    __syncthreads();
    if (shared && t < cells) y[t] = here[t];
}}"""


SOURCE = (
    "".join(kernel(*operation) for operation in OPERATIONS)
    + r"""
extern "C" __global__ void swap(unsigned* y, unsigned* olds, int n) {
    // A counter by compare and swap: a lane tries until it wins.
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned seen = y[0], old;
    while ((old = atomicCAS(y, seen, seen + 3)) != seen) seen = old;
    olds[i] = old;
}
extern "C" __global__ void swap64(unsigned long long* y, unsigned long long* olds, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned long long seen = 0, old;
    while ((old = atomicCAS(y, seen, seen + (1ull << 33))) != seen) seen = old;
    olds[i] = old;
}
extern "C" __global__ void swap16(unsigned short* y, unsigned* olds, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned short seen = 0, old;
    unsigned short* cell = y + 1 + i % 2;
    while ((old = atomicCAS(cell, seen, (unsigned short)(seen + 1))) != seen) seen = old;
    olds[i] = old;
}
extern "C" __global__ void lock(int* y, int rounds) {
    // One thread a block: a critical section.
    for (int i = 0; i < rounds; ++i) {
        while (atomicExch(y, 1)) {}
        __threadfence();
        y[1] += 1;
        __threadfence();
        atomicExch(y, 0);
    }
}
extern "C" __global__ void red(int* y, float* z, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n && i % 3) {
        asm volatile("red.global.add.s32 [%0], 1;" :: "l"(y) : "memory");
        atomicMax(y + 1, i);
        atomicAdd(z, 0.5f);
    }
}
"""
)


@pytest.fixture(scope="module", params=[(None, 3), (8, 1)], ids=["threads", "narrow"])
def module(request: pytest.FixtureRequest) -> Iterator[VirtualModule]:
    device = VirtualDevice(*request.param)
    yield device.compile(SOURCE, name="atomics.cu")
    device.close()


def values(operation: str, dtype: Any, count: int) -> npt.NDArray[Any]:
    generator = np.random.default_rng(3)
    if operation == "exch":
        return np.arange(1, count + 1).astype(dtype)
    if dtype in (np.float32, np.float64):
        return generator.integers(0, 8, count).astype(dtype)
    info = np.iinfo(dtype)
    if operation in ("inc", "dec"):
        return np.full(count, 100, dtype)
    return generator.integers(info.min, info.max, count, dtype, endpoint=True)


def step(operation: str, old: Any, v: Any) -> Any:
    """The new value."""
    if operation in ("inc", "dec"):
        return (0 if old >= v else old + 1) if operation == "inc" else (v if old == 0 or old > v else old - 1)
    with np.errstate(over="ignore"):
        return {
            "add": lambda: old + v,
            "min": lambda: min(old, v),
            "max": lambda: max(old, v),
            "and": lambda: old & v,
            "or": lambda: old | v,
            "xor": lambda: old ^ v,
            "exch": lambda: v,
        }[operation]()


@pytest.mark.parametrize(("operation", "kind"), OPERATIONS)
@pytest.mark.parametrize("shared", [0, 1])
def test_no_operation_is_lost(module: VirtualModule, operation: str, kind: str, shared: int) -> None:
    dtype = DTYPES.get(kind) or {"b32": np.uint32, "b64": np.uint64}[kind]
    kernel, device = module[f"{operation}_{kind}"], module[f"{operation}_{kind}"]._device
    for blocks, threads, cells in ((1 if shared else 40, 64, 1), (1 if shared else 7, 97, 3), (1, 64, 64)):
        x = values(operation, dtype, blocks * threads)
        start = np.full(64, 7).astype(dtype)
        y, olds = device.upload(start), device.zeros(x.shape, dtype)
        kernel.launch(blocks, threads, (device.upload(x), y, olds, cells, shared))
        for cell in range(cells):
            mine, seen = x[cell::cells], olds.host[cell::cells]
            _is_a_history(operation, start[cell], y.host[cell], mine, seen)
        assert (y.host[cells:] == start[cells:]).all()


def _is_a_history(operation: str, first: Any, last: Any, given: Any, seen: Any) -> None:
    """In some order each operation saw what the one before left; without knowing the order."""
    final = first
    for v in given:
        final = step(operation, final, v)
    if operation != "exch":
        # The order does not matter to the end.
        assert last == final
    left = [step(operation, old, v) for old, v in zip(seen, given, strict=True)]
    # Every value that somebody saw was the first or left by somebody, and only the last was seen by nobody.
    assert sorted([*seen.tolist(), last.item()]) == sorted(
        [first.item(), *[np.array(v).item() for v in left]]
    )


@pytest.mark.parametrize(("name", "dtype", "by"), [("swap", np.uint32, 3), ("swap64", np.uint64, 1 << 33)])
def test_compare_and_swap(module: VirtualModule, name: str, dtype: Any, by: int) -> None:
    device, n = module[name]._device, 1500
    y, olds = device.zeros((1,), dtype), device.zeros((n,), dtype)
    module[name].launch(24, 64, (y, olds, n))
    assert y.host[0] == n * by
    assert sorted(olds.host.tolist()) == [i * by for i in range(n)]


def test_16_bits_between_others(module: VirtualModule) -> None:
    device, n = module["swap16"]._device, 1000
    y, olds = device.zeros((4,), np.uint16), device.zeros((n,), np.uint32)
    y.host[[0, 3]] = 0xBEEF
    module["swap16"].launch(16, 64, (y, olds, n))
    assert y.host.tolist() == [0xBEEF, n // 2, n // 2, 0xBEEF]
    for cell in (0, 1):
        assert sorted(olds.host[cell::2].tolist()) == list(range(n // 2))


def test_a_lock_between_blocks(module: VirtualModule) -> None:
    y = module["lock"]._device.zeros((2,), np.int32)
    module["lock"].launch(50, 1, (y, 100))
    assert y.host.tolist() == [0, 5000]


def test_reductions_of_some_lanes(module: VirtualModule) -> None:
    device = module["red"]._device
    y, z = device.zeros((2,), np.int32), device.zeros((1,), np.float32)
    module["red"].launch(30, 96, (y, z, 2500))
    count = sum(1 for i in range(2500) if i % 3)
    assert (y.host.tolist(), z.host[0]) == ([count, 2498], count / 2)
