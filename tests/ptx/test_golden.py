"""PTX as NVRTC writes it, for every architecture and by older compilers; and PTX that somebody broke."""

import contextlib
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnkit.device.compile import compile_cuda
from nnkit.device.virtual import VirtualDevice
from nnkit.errors import CompileError, UsageError
from nnkit.ptx.ir import PtxError
from nnkit.ptx.parse import parse
from nnkit.vm.run.machine import Machine

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.ptx"))
ARCHITECTURES = ("compute_75", "compute_80", "compute_90", "compute_100", "compute_120")
SOURCE = r"""
struct Pair { float weight; int place; };
__constant__ float scale[4] = {1.5f, -2.0f, 0.25f, 3.0f};
__device__ int visits;
__device__ double table[3][2] = {{1, 2}, {3, 4}, {5, 6}};

template <class T> __device__ T folded(T a, T b) { return a * b + T(1); }
__device__ __noinline__ float apart(const float* x, int i, Pair pair) {
    return x[(i + pair.place) & 63] * pair.weight;
}

// All sorts of instructions; the results do not depend on the order of threads.
extern "C" __global__ void rich(int n, const float* x, float* out, int* whole, Pair pair) {
    __shared__ float tile[64];
    __shared__ int total;
    extern __shared__ double more[];
    int t = threadIdx.x, i = blockIdx.x * blockDim.x + t;
    if (t == 0) total = 0;
    tile[t] = i < n ? x[i] : 0.0f;
    more[t] = table[t % 3][t & 1];
    __syncthreads();
    float sum = 0;
    for (int k = 0; k < 8; ++k) sum = fmaf(tile[(t + k) & 63], scale[k & 3], sum);
    float own[4];
    for (int k = 0; k < 4; ++k) own[(k * 3 + t) & 3] = tile[(t ^ k) & 63] + k;
    sum += own[n & 3] + apart(x, t, pair);
    switch (t % 5) {
        case 0: sum = sqrtf(fabsf(sum)); break;
        case 1: sum = fminf(sum, 2.0f); break;
        case 2: sum /= 3.0f; break;
        case 3: sum = rintf(sum) - floorf(sum / 7); break;
        default: sum = folded(sum, 0.5f);
    }
    float4 four = reinterpret_cast<const float4*>(x)[t & 15];
    unsigned word = __float_as_uint(sum) * 2654435761u;
    word = __brev(word) ^ __byte_perm(word, t, 0x3120) ^ (word >> (t & 31)) ^ __funnelshift_l(word, t, 5);
    long long wide = (long long)(int)word * t + __popc(word) - __clz(word);
    unsigned other = __shfl_xor_sync(0xffffffff, word, 1) ^ __ballot_sync(0xffffffff, word & 1);
    atomicAdd(&total, (int)(other & 1023));
    if (t < 32) atomicAdd(&visits, 1);
    __syncthreads();
    if (i < n) {
        out[i] = sum + four.x * four.w + (float)more[63 - t];
        whole[4 * i] = (int)word % 1000 + (int)(wide >> 7);
        whole[4 * i + 1] = other % 77u + (unsigned)(wide % 12345);
        whole[4 * i + 2] = total;
        whole[4 * i + 3] = (signed char)word + (short)(word >> 3) + (t > 3 ? -t : t);
    }
}
"""


def results(ptx: str, threads: int = 1) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """What the kernel computes on arrays that are always the same."""
    device = VirtualDevice(threads=threads)
    n = 150
    x = device.upload(np.random.default_rng(5).normal(size=n).astype(np.float32))
    out, whole = device.zeros((n,), np.float32), device.zeros((n, 4), np.int32)
    pair = np.array((0.75, 3), np.dtype([("weight", "f4"), ("place", "i4")]))[()]
    device.load_ptx(ptx)["rich"].launch(3, 64, (n, x, out, whole, pair), shared_bytes=512)
    found = out.download(), whole.download()
    device.close()
    return found


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    """The PTX by architecture."""
    return {arch: compile_cuda(SOURCE, "rich.cu", arch=arch).ptx for arch in ARCHITECTURES}


def test_all_architectures_compute_the_same(made: dict[str, str]) -> None:
    first = results(made[ARCHITECTURES[0]])
    assert np.isfinite(first[0]).all()
    assert len(np.unique(first[1])) > 300
    for arch, ptx in made.items():
        assert f".target sm_{arch.removeprefix('compute_')}" in ptx
        for one, other in zip(first, results(ptx), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("options", [["-G"], ["--fmad=false"], ["--extra-device-vectorization"]], ids=str)
def test_options_of_the_compiler(made: dict[str, str], options: list[str]) -> None:
    out, whole = results(compile_cuda(SOURCE, "rich.cu", options).ptx)
    first = results(made["compute_90"])
    if "false" not in options[0] and options != ["-G"]:
        np.testing.assert_array_equal(whole, first[1])
    # Without contraction of products and sums each rounds twice; what is rounded to whole numbers may jump.
    close = np.isclose(out, first[0], rtol=1e-2, atol=1e-2)
    assert close.mean() > 0.95


def expected(name: str, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What the stored kernels compute."""
    if name == "saxpy":
        return 2 * x + 1
    if name == "reverse":
        return x[::-1]
    if name == "sum":
        return np.full_like(x, x.sum())
    # 4 x 4 tiles, transposed within the square of 8 x 8.
    return x.reshape(8, 8).T.ravel()


@pytest.mark.parametrize("path", [p for p in GOLDEN if "variety" not in p.name], ids=lambda path: path.stem)
def test_stored_ptx(path: Path) -> None:
    device = VirtualDevice(threads=1)
    host = np.arange(64, dtype=np.float32)
    x, y = device.upload(host), device.zeros((64,), np.float32)
    module = device.load_ptx(path.read_text())
    (name,) = module.kernels
    blocks, threads = ((2, 2), (4, 4)) if name == "transpose" else (1, 64)
    module[name].launch(blocks, threads, (64, x, y))
    np.testing.assert_array_equal(y.host, expected(name, host))
    device.close()


def test_there_are_stored_texts() -> None:
    assert len(GOLDEN) >= 4


def load(ptx: str) -> None:
    """All that happens before a launch, and the compilation; anything but a refusal is an error."""
    refused = ""
    try:
        module = Machine(threads=1).load(ptx)
        for kernel in module.kernels.values():
            kernel.variant((64, 1, 1), True)
    except PtxError as error:
        refused = str(error) or "for no reason"
    assert "\n" not in refused
    assert "for no reason" not in refused


TEXTS = [path.read_text() for path in GOLDEN]


@pytest.mark.parametrize("text", TEXTS, ids=[path.stem for path in GOLDEN])
def test_truncated_ptx(text: str) -> None:
    for end in range(0, len(text), 50):
        load(text[:end])
    for start in range(50, len(text), 150):
        load(text[start:])


def test_truncated_ptx_of_a_rich_kernel(made: dict[str, str]) -> None:
    text = made["compute_90"]
    for end in range(0, len(text), 50):
        with contextlib.suppress(PtxError):
            parse(text[:end])


_TOKEN = re.compile(r"[%$\w.]+|\S")


@st.composite
def broken(draw: st.DrawFn) -> str:
    """A text with some of its tokens deleted, doubled, swapped or replaced by others of it."""
    text = draw(st.sampled_from(TEXTS))
    places = [match.span() for match in _TOKEN.finditer(text)]
    for _ in range(draw(st.integers(1, 3))):
        start, end = draw(st.sampled_from(places))
        other = text[slice(*draw(st.sampled_from(places)))]
        new = draw(
            st.sampled_from(["", other, text[start:end] * 2, "0", "-1", "99999999999999999999", "%r1"])
        )
        text = text[:start] + " " * (end - start) + text[end:] if not new else text[:start] + new + text[end:]
        places = [match.span() for match in _TOKEN.finditer(text)]
    return text


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(broken())
def test_broken_ptx(text: str) -> None:
    load(text)


@pytest.mark.parametrize(
    "text", ["", "\n", "\0", "%", ".", "}", "{" * 5000, "(" * 5000, "/*", '"', "é", "x" * 10**5]
)
def test_text_that_is_no_ptx(text: str) -> None:
    device = VirtualDevice(threads=1)
    for candidate in (text, ".version 8.0\n.target sm_80\n.address_size 64\n" + text):
        with contextlib.suppress(CompileError, UsageError):
            assert device.load_ptx(candidate).kernels == ()
    device.close()
