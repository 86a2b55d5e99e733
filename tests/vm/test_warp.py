"""Operations between the lanes of a warp, against a model of PTX's rules in Python."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from nnkit.device.virtual import VirtualDevice, VirtualModule
from nnkit.errors import KernelError
from tests.support.sources import line_of, report

# Every kernel: the lanes whose bit in `who` is set execute the operation with the mask `who`, no others. A
# result that is not kept is dropped.
HEAD = """
#define BEGIN(name) extern "C" __global__ void name(unsigned who, int a, int b, const int* in, int* out) { \\
    int t = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z), v = in[t], r = -1, q = -1; \\
    int kept = out[2 * t]; \\
    if (who >> t % 32 & 1) {
#define END } out[2 * t] = kept ? r : 0; out[2 * t + 1] = q; }
#define SHFL(how) asm volatile("{ .reg .pred p; shfl.sync." #how ".b32 %0|p, %2, %3, %4, %5;" \\
    " selp.b32 %1, 1, 0, p; }" \\
    : "=r"(r), "=r"(q) : "r"(v), "r"(a + (b >> 16) * v), "r"(b & 0xFFFF), "r"(who));
#define MATCH(how) asm volatile("{ .reg .pred p; match." #how ".sync.b32 %0|p, %2, %3;" \\
    " selp.b32 %1, 1, 0, p; }" \\
    : "=r"(r), "=r"(q) : "r"(v), "r"(who));
BEGIN(up) SHFL(up) END
BEGIN(down) SHFL(down) END
BEGIN(bfly) SHFL(bfly) END
BEGIN(idx) SHFL(idx) END
BEGIN(ballot) r = __ballot_sync(who, v > a); END
BEGIN(all) r = __all_sync(who, v > a); q = __any_sync(who, v > a); END
BEGIN(uni) r = __uni_sync(who, v > a); END
BEGIN(match_any) r = __match_any_sync(who, v); q = __match_any_sync(who, (long long)v << 33); END
BEGIN(match_all) MATCH(all) END
BEGIN(add) r = __reduce_add_sync(who, v); q = __reduce_xor_sync(who, (unsigned)v); END
BEGIN(least) r = __reduce_min_sync(who, v); q = __reduce_max_sync(who, v); END
BEGIN(unsigned_least) r = __reduce_min_sync(who, (unsigned)v); q = __reduce_max_sync(who, (unsigned)v); END
BEGIN(logic) r = __reduce_and_sync(who, (unsigned)v); q = __reduce_or_sync(who, (unsigned)v); END
BEGIN(active) r = __activemask(); __syncwarp(who); q = __activemask(); END
BEGIN(elect)
    asm volatile("{ .reg .pred p; elect.sync %0|p, %2; selp.b32 %1, 1, 0, p; }"
        : "=r"(r), "=r"(q) : "r"(who));
END
BEGIN(lanes) asm("mov.u32 %0, %%laneid;" : "=r"(r)); asm volatile("mov.u32 %0, %%warpid;" : "=r"(q)); END
BEGIN(masks) unsigned eq, le, lt, ge, gt;
    asm("mov.u32 %0, %%lanemask_eq;" : "=r"(eq)); asm("mov.u32 %0, %%lanemask_le;" : "=r"(le));
    asm("mov.u32 %0, %%lanemask_lt;" : "=r"(lt)); asm("mov.u32 %0, %%lanemask_ge;" : "=r"(ge));
    asm("mov.u32 %0, %%lanemask_gt;" : "=r"(gt));
    r = eq | gt; q = (le ^ lt) == eq && (ge ^ gt) == eq && (le & gt) == 0 && (le | gt) == ~0u ? le : 0;
END
"""
SOURCE = (
    HEAD
    + """
extern "C" __global__ void elsewhere(int* out) {
    if (threadIdx.x & 1) out[threadIdx.x] = __ballot_sync(0xFFFFFFFF, 1); // ballot elsewhere
    out[threadIdx.x + 128] = 1;
}
extern "C" __global__ void elsewhere_shfl(int* out) {
    int t = threadIdx.x;
    if (t < 7) out[t] = __shfl_sync(0xFF, t, 0); // shfl elsewhere
    else out[t] = t;
}
extern "C" __global__ void elsewhere_sync(int* out) {
    if (threadIdx.x % 32 < 30) __syncwarp(); // sync elsewhere
    __syncthreads();
    out[threadIdx.x] = 1;
}
extern "C" __global__ void gone(int* out, int n) {
    int t = threadIdx.x;
    if (t >= n) return;
    out[t] = __ballot_sync(0xFFFFFFFF, 1) + __shfl_sync(0xFFFFFFFF, t, 0);
}
extern "C" __global__ void halves(int* out) {
    // Lanes name their own half; both halves execute one instruction together.
    int t = threadIdx.x;
    unsigned mine = t % 32 < 16 ? 0xFFFF : 0xFFFF0000;
    out[4 * t] = __reduce_add_sync(mine, t);
    out[4 * t + 1] = __match_any_sync(mine, t % 4);
    out[4 * t + 2] = __shfl_xor_sync(mine, t, 15);
    unsigned leader;
    asm volatile("{ .reg .pred p; elect.sync %0|p, %1; }" : "=r"(leader) : "r"(mine));
    out[4 * t + 3] = leader;
}
extern "C" __global__ void half_votes(int* out) {
    int t = threadIdx.x;
    unsigned mine = t % 32 < 16 ? 0xFFFF : 0xFFFF0000;
    out[t] = __ballot_sync(mine, t % 3 == 0);
}
extern "C" __global__ void branches(int* out) {
    // Each side with its own mask, inside of a loop that lanes leave one by one.
    int t = threadIdx.x, sum = 0;
    #pragma unroll 1
    for (int i = 0; i < t; ++i) {
        unsigned here = __activemask();
        sum += __popc(here);
        if (t & 1) sum += __reduce_add_sync(here & 0xAAAAAAAA, 1);
        else sum += __reduce_add_sync(here & 0x55555555, 1);
        __syncwarp(here);
    }
    out[t] = sum;
}
extern "C" __global__ void sum_of(const int* in, int* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    int v = i < n ? in[i] : 0;
    for (int step = 16; step; step /= 2) v += __shfl_down_sync(0xFFFFFFFF, v, step);
    if (threadIdx.x % 32 == 0) atomicAdd(out, v);
}
"""
)

Words = npt.NDArray[np.int64]
VALUES = np.random.default_rng(1).integers(-5, 6, 128).astype(np.int32)


@pytest.fixture(scope="module")
def module() -> Iterator[VirtualModule]:
    device = VirtualDevice(threads=1)
    yield device.compile(SOURCE, name="warp.cu")
    device.close()


def run(
    module: VirtualModule, name: str, block: Any, who: int, a: int = 0, b: int = 0, kept: Any = True
) -> Words:
    """(threads, 2) results."""
    threads = int(np.prod(block))
    device = module[name]._device
    given, out = device.upload(VALUES[:threads]), device.zeros((threads, 2), np.int32)
    out.host[:, 0] = kept
    module[name].launch(1, block, (np.uint32(who), np.int32(a), np.int32(b), given, out))
    return out.download().astype(np.int64)


def expected(threads: int, who: int, of: Callable[[list[int], int, Any], tuple[int, int]]) -> Words:
    """What a model says: of(values of the warp, lane, present members) for every member, -1 for others."""
    result = np.full((threads, 2), -1)
    for thread in range(threads):
        first, lane = thread - thread % 32, thread % 32
        values = [int(v) for v in VALUES[first : min(first + 32, threads)]]
        here = [n for n in range(len(values)) if who >> n & 1]
        if who >> lane & 1:
            result[thread] = of(values, lane, here)
    return result


def same(found: Words, wanted: Words) -> None:
    """Equal as 32-bit words."""
    np.testing.assert_array_equal(found & 0xFFFFFFFF, wanted & 0xFFFFFFFF)


def shuffled(mode: str, lane: int, b: int, clamp: int) -> tuple[int, bool]:
    """The source lane and the predicate, as the PTX manual writes it."""
    bound, segment = clamp & 31, clamp >> 8 & 31
    top = lane & segment | bound & ~segment & 31
    low = lane & segment
    source = {
        "up": lane - (b & 31),
        "down": lane + (b & 31),
        "bfly": lane ^ b & 31,
        "idx": low | b & 31 & ~segment,
    }[mode]
    inside = source >= top if mode == "up" else source <= top
    return (source if inside else lane), inside


BLOCKS: list[Any] = [32, 128, 1, 17, (8, 5), (3, 7, 2), 33]
MASKS = [0xFFFFFFFF, 0x0000FFFF, 0xAAAAAAAA, 0x80000001, 0x00F0F00F, 1]


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
def test_shuffles(module: VirtualModule, mode: str) -> None:
    """All widths and distances in full warps; partial warps and masks; distances that vary by lane."""
    for width in (1, 2, 4, 8, 16, 32):
        clamp = (32 - width) << 8 | (0 if mode == "up" else 31)
        for distance in range(33):
            _check_shuffle(module, mode, 32, 0xFFFFFFFF, distance, clamp)
    for clamp in (0x1F, 0, 0x181F, 0x0C0F, 0x1507, 0x1F1F, 0x0105):
        for block in BLOCKS:
            for who in MASKS:
                for distance in (0, 1, 5, 16, 31):
                    _check_shuffle(module, mode, block, who, distance, clamp | (distance % 2) << 16)


def _check_shuffle(module: VirtualModule, mode: str, block: Any, who: int, distance: int, clamp: int) -> None:
    threads = int(np.prod(block))

    def model(values: list[int], lane: int, here: list[int]) -> tuple[int, int]:
        source, inside = shuffled(mode, lane, distance + (clamp >> 16) * values[lane], clamp & 0xFFFF)
        # What a lane that is not here would give is not defined.
        return (values[source] if source in here else UNKNOWN), int(inside)

    wanted = expected(threads, who, model)
    known = wanted[:, 0] != UNKNOWN
    # Dropped, an undefined value harms nothing; used, it is reported.
    found = run(module, mode, block, who, distance, clamp, known)
    same(found[known, 0], wanted[known, 0])
    same(found[:, 1], wanted[:, 1])
    if not known.all():
        with pytest.raises(KernelError, match="reads from lane") as caught:
            run(module, mode, block, who, distance, clamp)
        x, y, z = report(caught.value).thread
        bx, by, _ = (*block, 1, 1)[:3] if isinstance(block, tuple) else (block, 1, 1)
        assert not known[x + bx * (y + by * z)]


UNKNOWN = 1 << 40


def bits(lanes: list[int]) -> int:
    return sum(1 << lane for lane in lanes)


def reduced(operation: str, values: list[int]) -> int:
    unsigned = [v & 0xFFFFFFFF for v in values]
    if operation == "add":
        return sum(values)
    made = unsigned[0]
    for value in unsigned[1:]:
        made = {
            "xor": made ^ value,
            "and": made & value,
            "or": made | value,
            "umin": min(made, value),
            "umax": max(made, value),
        }[operation]
    return made


MODELS: dict[str, Callable[[list[int], int, list[int]], tuple[int, int]]] = {
    "ballot": lambda v, lane, here: (bits([n for n in here if v[n] > 0]), -1),
    "all": lambda v, lane, here: (all(v[n] > 0 for n in here), any(v[n] > 0 for n in here)),
    "uni": lambda v, lane, here: (len({v[n] > 0 for n in here}) == 1, -1),
    "match_any": lambda v, lane, here: (bits([n for n in here if v[n] == v[lane]]),) * 2,
    "match_all": lambda v, lane, here: (bits(here), 1) if len({v[n] for n in here}) == 1 else (0, 0),
    "add": lambda v, lane, here: (reduced("add", [v[n] for n in here]), reduced("xor", [v[n] for n in here])),
    "least": lambda v, lane, here: (min(v[n] for n in here), max(v[n] for n in here)),
    "unsigned_least": lambda v, lane, here: (
        reduced("umin", [v[n] for n in here]),
        reduced("umax", [v[n] for n in here]),
    ),
    "logic": lambda v, lane, here: (
        reduced("and", [v[n] for n in here]),
        reduced("or", [v[n] for n in here]),
    ),
    "active": lambda v, lane, here: (bits(here), bits(here)),
    "elect": lambda v, lane, here: (here[0], lane == here[0]),
}


@pytest.mark.parametrize("name", MODELS)
def test_votes_matches_and_reductions(module: VirtualModule, name: str) -> None:
    for block in BLOCKS:
        for who in MASKS:
            same(run(module, name, block, who), expected(int(np.prod(block)), who, MODELS[name]))


def test_registers_of_the_lane(module: VirtualModule) -> None:
    for block in BLOCKS:
        t = np.arange(int(np.prod(block)))
        lane = t % 32
        same(run(module, "lanes", block, 0xFFFFFFFF), np.stack([lane, t // 32], 1))
        upto = (2 << lane) - 1
        same(run(module, "masks", block, 0xFFFFFFFF), np.stack([~upto | 1 << lane, upto], 1))


@pytest.mark.parametrize(
    ("name", "mark", "thread", "threads"),
    [
        ("elsewhere", "ballot elsewhere", 1, 32),
        ("elsewhere", "ballot elsewhere", 1, 5),
        ("elsewhere_shfl", "shfl elsewhere", 0, 8),
        ("elsewhere_shfl", "shfl elsewhere", 0, 64),
        ("elsewhere_sync", "sync elsewhere", 0, 64),
    ],
)
def test_members_that_are_elsewhere(
    module: VirtualModule, name: str, mark: str, thread: int, threads: int
) -> None:
    out = module[name]._device.zeros((256,), np.int32)
    with pytest.raises(KernelError, match="names threads that are not here") as caught:
        module[name].launch(1, threads, (out,))
    found = report(caught.value)
    assert (found.line, found.thread) == (line_of(SOURCE, mark), (thread, 0, 0))
    module["gone"].launch(1, 64, (out, 7))
    assert out.host[:7].tolist() == [127] * 7


def test_lanes_that_have_left_are_not_waited_for(module: VirtualModule) -> None:
    out = module["gone"]._device.zeros((64,), np.int32)
    module["gone"].launch(1, 50, (out, 39))
    # Lane 0 of the second warp holds 32.
    assert out.host[:39].tolist() == [-1] * 32 + [127 + 32] * 7
    module["elsewhere_shfl"].launch(1, 7, (out,))
    assert out.host[:7].tolist() == [0] * 7


def test_a_mask_of_their_own(module: VirtualModule) -> None:
    out = module["halves"]._device.zeros((64, 4), np.int32)
    module["halves"].launch(1, 64, (out,))
    for t in range(64):
        half, first = t - t % 16, t % 32 - t % 16
        match = bits([n for n in range(first, first + 16) if n % 4 == t % 4])
        wanted = [sum(range(half, half + 16)), match, t ^ 15, first]
        assert (out.host[t].astype(np.int64) & 0xFFFFFFFF).tolist() == wanted


def test_votes_with_a_mask_of_their_own(module: VirtualModule) -> None:
    """Either right or refused; never another group's votes."""
    out = module["half_votes"]._device.zeros((32,), np.int32)
    try:
        module["half_votes"].launch(1, 32, (out,))
    except KernelError as caught:
        refusal = str(caught)
    else:
        refusal = ""
    if refusal:
        assert "different masks" in refusal
        return
    votes = bits([n for n in range(32) if n % 3 == 0])
    found = out.host.astype(np.int64) & 0xFFFFFFFF
    assert found.tolist() == [votes & 0xFFFF] * 16 + [votes & 0xFFFF0000] * 16


@pytest.mark.parametrize("threads", [32, 21, 64])
def test_branches_of_a_loop(module: VirtualModule, threads: int) -> None:
    out = module["branches"]._device.zeros((64,), np.int32)
    module["branches"].launch(1, threads, (out,))
    for t in range(threads):
        first = t - t % 32
        last = min(first + 32, threads)
        total = 0
        for i in range(t):
            here = [n for n in range(first, last) if n > i]
            total += len(here) + len([n for n in here if n % 2 == t % 2])
        assert out.host[t] == total


@pytest.mark.parametrize("threads", [32, 96, 128])
def test_a_sum_over_many_blocks(threads: int) -> None:
    device = VirtualDevice(threads=3)
    values = np.random.default_rng(2).integers(-1000, 1000, 9999).astype(np.int32)
    given, out = device.upload(values), device.zeros((1,), np.int32)
    kernel = device.compile(SOURCE, name="warp.cu")["sum_of"]
    kernel.launch(-(-9999 // threads), threads, (given, out, 9999))
    assert out.host[0] == values.sum()
    device.close()


def test_shuffles_by_constants() -> None:
    """What is known when the kernel is compiled becomes a fixed permutation."""
    cases = [
        (mode, distance, clamp)
        for mode in ("up", "down", "bfly", "idx")
        for clamp in (0x1F, 0, 0x181F, 0x1800, 0x0C0F, 0x1507)
        for distance in (0, 1, 5, 16, 31, 35)
    ]
    lines = [
        f'asm volatile("{{ .reg .pred p; shfl.sync.{mode}.b32 %0|p, %2, {distance}, {clamp}, -1;'
        f' selp.b32 %1, 1, 0, p; }}" : "=r"(r), "=r"(q) : "r"(t));'
        f" out[{2 * number} * 32 + t] = r; out[{2 * number + 1} * 32 + t] = q;"
        for number, (mode, distance, clamp) in enumerate(cases)
    ]
    source = f'extern "C" __global__ void k(int* out) {{ int t = threadIdx.x, r, q; {" ".join(lines)} }}'
    device = VirtualDevice(threads=1)
    out = device.zeros((len(cases), 2, 32), np.int32)
    device.compile(source, name="constants.cu")["k"].launch(1, 32, (out,))
    for found, (mode, distance, clamp) in zip(out.host, cases, strict=True):
        wanted = [shuffled(mode, lane, distance, clamp) for lane in range(32)]
        assert found.T.tolist() == [list(map(int, pair)) for pair in wanted], (mode, distance, clamp)
    device.close()
