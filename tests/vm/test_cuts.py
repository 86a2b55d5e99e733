"""Indices of 64 bits into shared and local memory that the compiler cuts to 32: reported where they wrap."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from nnkit.device.virtual import VirtualDevice, VirtualModule
from nnkit.errors import DeviceMemoryError
from tests.support.sources import line_of, report

START = "__shared__ int s[64]; int t = threadIdx.x; s[t] = t; __syncthreads();"
LOADS = {
    "plain": "s[i + t]",
    "behind": "s[t + i]",
    "row": "s[i * 8 + t % 8]",
    "product": "s[i * (long long)j + t]",
    "unsigned_index": "s[(unsigned long long)i + t]",
    "negative": "s[t - i]",
    "choice": "s[(j > 5 ? i : i + 1) + t]",
    "guarded": "(t >= 8 ? s[t + i - 8] : -1)",
    "bytes": "((volatile char*)s)[4 * i + 4 * t]",
    "vector": "((int4*)s)[i + (t & 3)].x",
    "pointer": "*(s + t + i)",
    "inlined": "at(s, i + t)",
}
SOURCE = "__device__ __forceinline__ int at(const int* p, size_t i) { return p[i]; } // inlined\n" + "".join(
    f"""
extern "C" __global__ void {name}(long long i, int j, int* out) {{
    {START}
    out[t] = {what}; // {name if name != "inlined" else "at"}
}}"""
    for name, what in LOADS.items()
)
SOURCE += f"""
extern "C" __global__ void store(long long i, int j, int* out) {{
    {START}
    s[i + t] = 7; // store
    __syncthreads();
    out[t] = s[t];
}}
extern "C" __global__ void atomic(long long i, int j, int* out) {{
    {START}
    atomicAdd(&s[i + t], 7); // atomic
    __syncthreads();
    out[t] = s[t];
}}
extern "C" __global__ void dynamic(long long i, int j, int* out) {{
    extern __shared__ int pool[];
    int t = threadIdx.x;
    pool[t] = t;
    __syncthreads();
    out[t] = pool[i + t]; // dynamic
}}
extern "C" __global__ void loop(long long i, int j, int* out) {{
    {START}
    int sum = 0;
    for (long long k = i; k < i + j; ++k)
        sum += s[k * 2]; // loop
    out[t] = sum;
}}
extern "C" __global__ void local(long long i, int j, int* out) {{
    int s[64], t = threadIdx.x;
    for (int k = 0; k < 64; ++k) s[k] = out[k] + k;
    out[t] = s[i + t]; // local
}}
"""
BAD = (1 << 30, -(1 << 30), 1 << 40, -(1 << 40), (1 << 62) - 1, 1 << 31, 1 << 32, (1 << 32) + 1)


@pytest.fixture(scope="module")
def device() -> Iterator[VirtualDevice]:
    made = VirtualDevice(threads=1)
    yield made
    made.close()


@pytest.fixture(scope="module")
def module(device: VirtualDevice) -> VirtualModule:
    return device.compile(SOURCE, name="cuts.cu")


@pytest.mark.parametrize("name", [*LOADS, "store", "atomic", "dynamic", "loop", "local"])
def test_an_index_of_64_bits_is_not_cut(device: VirtualDevice, module: VirtualModule, name: str) -> None:
    out = device.zeros((64,), np.int32)

    def launch(i: int, j: int = 8) -> list[int]:
        shared = 256 if name == "dynamic" else 0
        module[name].launch(1, 64, (np.int64(i), np.int32(j), out), shared_bytes=shared)
        found: list[int] = out.download().tolist()
        return found

    t = np.arange(64)
    right = {
        "row": t % 8,
        "guarded": np.where(t >= 8, t - 8, -1),
        "vector": 4 * (t & 3),
        "store": t * 0 + 7,
        "atomic": t + 7,
        "loop": t * 0 + 56,
    }
    assert launch(0) == right.get(name, t).tolist()
    for i in BAD:
        with pytest.raises(DeviceMemoryError) as caught:
            launch(i)
        assert report(caught.value).line == line_of(SOURCE, name), i
    if name == "plain":
        with pytest.raises(DeviceMemoryError, match="4294967040 bytes behind the end: shared memory has 256"):
            launch(1 << 30)
        with pytest.raises(DeviceMemoryError, match=r"address 0x40000000000 is .* behind the end"):
            launch(1 << 40)
        with pytest.raises(DeviceMemoryError, match="4294967296 bytes before the start"):
            launch(-(1 << 30))


MEANT = f"""
extern "C" __global__ void hashed(unsigned long long key, const unsigned long long* x, int* out) {{
    {START}
    out[t] = s[(unsigned)key % 50] + 64 * s[(unsigned)x[t] % 50];
}}
extern "C" __global__ void packed(unsigned long long key, const unsigned long long* x, int* out) {{
    {START}
    unsigned long long pair = ((unsigned long long)(t + 5) << 32) | (t ^ 1);
    out[t] = s[(unsigned)pair] + 64 * s[(unsigned)x[t]];
}}
extern "C" __global__ void difference(unsigned long long key, const unsigned long long* x, int* out) {{
    {START}
    out[t] = s[(unsigned)key - (unsigned)(key - t)];
}}
extern "C" __global__ void random(unsigned long long key, const unsigned long long* x, int* out) {{
    {START}
    key = key * 6364136223846793005ULL + 1442695040888963407ULL + t;
    out[t] = s[(unsigned)key & 63] + 64 * s[key >> 58];
}}
extern "C" __global__ void short_loop(unsigned long long key, const unsigned long long* x, int* out) {{
    {START}
    int sum = 0;
    for (size_t k = t; k < 64; k += 16)
        sum += s[k];
    for (size_t k = 64; k-- > 60;)
        sum += s[k];
    out[t] = sum;
}}
"""


def test_a_program_may_cut_what_it_means_to_cut(device: VirtualDevice) -> None:
    module = device.compile(MEANT, name="meant.cu")
    out, t, key = device.zeros((64,), np.int32), np.arange(64), 0xFEDCBA9876543210
    high = t.astype(np.uint64) << np.uint64(33)
    x = device.upload(high + (t[::-1]).astype(np.uint64))
    new = [(key * 6364136223846793005 + 1442695040888963407 + int(n)) % (1 << 64) for n in t]
    right = {
        "hashed": (key & 0xFFFFFFFF) % 50 + 64 * ((63 - t) % 50),
        "packed": (t ^ 1) + 64 * (63 - t),
        "difference": t,
        "random": np.array([(n & 63) + 64 * (n >> 58) for n in new]),
        "short_loop": np.array([sum(range(n, 64, 16)) + 60 + 61 + 62 + 63 for n in t]),
    }
    for name, expected in right.items():
        module[name].launch(1, 64, (np.uint64(key), x, out))
        assert out.download().tolist() == expected.tolist(), name


IN_RANGE: dict[str, Callable[[int, int, int], int]] = {
    "(i + t) % 64": lambda i, j, t: (i + t) % 64,
    "(i + t) & 63": lambda i, j, t: (i + t) & 63,
    "(unsigned long long)(i + t) % 50": lambda i, j, t: (i + t) % 50,
    "i - i / 64 * 64": lambda i, j, t: i % 64,
    "i - (i & -64LL)": lambda i, j, t: i % 64,
    "(unsigned)i % 50": lambda i, j, t: (i % (1 << 32)) % 50,
    "((i >> 56) + t) & 63": lambda i, j, t: ((i >> 56) + t) & 63,
    "i * j + t - i * j": lambda i, j, t: t,
    "i + t - (i + 3) + 3": lambda i, j, t: t,
    "max(i, -i) - (i < 0 ? -i : i) + t": lambda i, j, t: t,
    "(i & 15) + ((t - 20) >> 1) + 12": lambda i, j, t: (i & 15) + ((t - 20) >> 1) + 12,
    "(i & 15) + j * (t >> 2) + 45": lambda i, j, t: (i & 15) + j * (t >> 2) + 45,
    "(unsigned)(i >> 60 & 3) + t / 2": lambda i, j, t: (i >> 60 & 3) + t // 2,
    "(t & 1 ? i : -i) * (t & 1 ? 1 : -1) - i + t": lambda i, j, t: t,
    "umul64hi(i, 64ULL << 1) % 64": lambda i, j, t: ((i * 128) >> 64) % 64,
}


def test_what_does_not_leave_the_array_is_not_accused(device: VirtualDevice) -> None:
    """However large the parameter is, and whatever the compiler makes of the arithmetic around it."""
    source = "".join(
        f"""
extern "C" __global__ void k{number}(long long i, int j, int* out) {{
    {START}
    out[t] = s[{what.replace("umul64hi", "__umul64hi")}];
}}"""
        for number, what in enumerate(IN_RANGE)
    )
    module = device.compile(source, name="range.cu")
    out = device.zeros((64,), np.int32)
    for i in (0, 5, 1 << 30, (1 << 32) + 7, 1 << 40, (1 << 61) + 9):
        for number, (what, right) in enumerate(IN_RANGE.items()):
            module[f"k{number}"].launch(1, 64, (np.int64(i), np.int32(-3), out))
            assert out.download().tolist() == [right(i, -3, t) for t in range(64)], (what, i)


def test_a_small_index_with_negative_parts(device: VirtualDevice) -> None:
    source = f"""
extern "C" __global__ void k(long long i, int j, int* out) {{
    {START}
    out[t] = s[i + ((t - 20) >> 1) + 10] + s[(i * j + t + 90) / 4] + s[j * t / 2 + i + 63 + j];
}}"""
    k = device.compile(source, name="small.cu")["k"]
    out = device.zeros((64,), np.int32)
    for i in (0, 1):
        k.launch(1, 64, (np.int64(i), np.int32(-1), out))
        right = [i + ((t - 20) >> 1) + 10 + (90 - i + t) // 4 + (62 + i + int(-t / 2)) for t in range(64)]
        assert out.download().tolist() == right


MEETING = (
    "i - x[t] + t",
    "t - (i - x[0])",
    "(i - x[t]) * 4 + t",
    "(int)(i - x[t]) + t",
    "(int)i - (int)x[t] + t",
    "i - (x[t] & ~3LL) + t",
    "i / 2 - x[t] / 2 + t",
    "(j ? i : 1) - (j ? x[t] : 1) + t",
    "i - u + t",
    "(unsigned)i - u + t",
    "i - (int)u + t",
    "i - (long long)j * w + t",
    "i - (long long)j * (START / 10) + t",
    "i - START + t",
    "4 * (i - START) + t",
    "(j > 5 ? i - START : 1) + t",
    "i - pair.first + t",
    "i - walked(i) + t",
)


@pytest.mark.parametrize(
    ("start", "arch"), [(1_500_000_000, "compute_90"), (3_000_000_000, "compute_90"), (3_000_000_000, None)]
)
def test_two_large_numbers_that_are_near_each_other(
    device: VirtualDevice, start: int, arch: str | None
) -> None:
    """Their difference is a right index, and only one of the two is known as a parameter of 64 bits."""
    # An int cannot hold the larger one.
    meeting = [what for what in MEETING if start < 1 << 31 or "(int)u" not in what]
    source = f"""
#define START {start}LL
struct Pair {{ long long first, second; }};
__device__ long long walked(long long i) {{ // as large as i, in steps
    long long k = 0;
    for (; k < i; k += 1 << 22);
    return k - (k - i);
}}
extern "C" __global__ void window(const long long* x, long long i, int* out) {{
    {START.replace("s[t] = t", "s[t] = 0")}
    for (int k = t; k < 300; k += 64) {{
        long long place = x[k] - i;
        if (place >= 0 && place < 64) atomicAdd(&s[place], 1);
    }}
    __syncthreads();
    out[t] = s[t];
}}""" + "".join(
        f"""
extern "C" __global__ void k{number}(long long i, long long w, int j, unsigned u, Pair pair,
                                     const long long* x, int* out) {{
    {START}
    out[t] = s[{what}];
}}"""
        for number, what in enumerate(meeting)
    )
    module = device.compile(source, name="meeting.cu", arch=arch)
    x, out, t = device.upload(np.full(64, start)), device.zeros((64,), np.int32), np.arange(64)
    pair = np.array([start, 0]).tobytes()
    for number, what in enumerate(meeting):
        numbers = (np.int64(start), np.int64(start // 10), np.int32(10), np.uint32(start))
        module[f"k{number}"].launch(1, 64, (*numbers, pair, x, out))
        assert out.download().tolist() == t.tolist(), what
    places = np.arange(300) * 7 % 90 - 13
    module["window"].launch(1, 64, (device.upload(start + places), np.int64(start), out))
    assert out.download().tolist() == [np.count_nonzero(places == n) for n in t]


@pytest.mark.parametrize("arch", ["compute_90", None])
def test_a_constant_that_is_lost_whole(device: VirtualDevice, arch: str | None) -> None:
    """Of `int` it has 2^33 bytes, of which 32 bits hold nothing: docs/virtual-device.md says so."""
    source = "".join(
        f"""
extern "C" __global__ void of_{kind}(long long i, int* out) {{
    __shared__ {kind} s[64];
    int t = threadIdx.x;
    s[t] = t;
    __syncthreads();
    out[t] = s[i - (1LL << 31) + t];
}}"""
        for kind in ("char", "int")
    )
    module = device.compile(source, name="lost.cu", arch=arch)
    out = device.zeros((64,), np.int32)
    module["of_char"].launch(1, 64, (np.int64(1 << 31), out))
    assert out.download().tolist() == list(range(64))
    with pytest.raises(DeviceMemoryError, match="0x200000000 is out of bounds"):
        module["of_int"].launch(1, 64, (np.int64(1 << 31), out))
