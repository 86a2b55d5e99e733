"""The host's headers, as device code needs them."""

from pathlib import Path

import numpy as np
import pytest

from nnkit import open_device
from nnkit.device.compile import compile_cuda
from nnkit.device.source.host_headers import beside, headers
from nnkit.errors import CompileError

KERNEL = '\nextern "C" __global__ void k(float *x) { x[0] = 1; }\n'


@pytest.mark.parametrize("options", [(), ("-default-device",)])
def test_all_headers_go_together_in_any_order(options: tuple[str, ...]) -> None:
    names = list(headers())
    for order in (names, names[::-1], names + names):
        compiled = compile_cuda("".join(f"#include <{name}>\n" for name in order) + KERNEL, options=options)
        assert compiled.log == ""
        assert ".entry k(" in compiled.ptx


@pytest.mark.parametrize("name", ["cstdint", "limits", "time.h", "algorithm", "cmath", "cfloat"])
def test_they_agree_with_cudas_own(name: str) -> None:
    for order in ((name, "cuda/std/cstdint", "cooperative_groups.h"), ("cooperative_groups.h", name)):
        text = "".join(f"#include <{header}>\n" for header in order)
        assert ".entry k(" in compile_cuda(text + KERNEL).ptx


def test_what_kernels_use_of_them_is_right() -> None:
    source = r"""
    #include <algorithm>
    #include <cassert>
    #include <cfloat>
    #include <climits>
    #include <cmath>
    #include <cstddef>
    #include <cstdint>
    #include <iostream>
    #include <limits>
    #include <string>
    #include <type_traits>
    #include <vector>
    static_assert(sizeof(int8_t) == 1 && sizeof(std::uint16_t) == 2 && sizeof(uintptr_t) == 8, "");
    static_assert(std::is_same<std::remove_cv_t<const int>, int>::value, "");
    static_assert(!std::is_same<int, unsigned>::value, "");
    static_assert(std::is_integral_v<char> && !std::is_integral_v<float>, "");
    static_assert(std::is_floating_point_v<const double>, "");
    static_assert(std::is_signed_v<float> && std::is_unsigned_v<size_t> && !std::is_signed_v<int *>, "");
    static_assert(std::is_convertible_v<int, double> && !std::is_convertible_v<int *, double>, "");
    static_assert(offsetof(float4, z) == 8 && CHAR_BIT == 8 && SIZE_MAX == UINT64_MAX, "");
    template <class T>
    __host__ __device__ std::enable_if_t<std::is_integral<T>::value, T> half(T x) { return x >> 1; }
    template <class T>
    __host__ __device__ std::enable_if_t<!std::is_integral<T>::value, T> half(T x) { return x / 2; }
    extern "C" __global__ void k(double *out) {
        int at = 0;
        assert(out != nullptr);
        out[at++] = M_PI;
        out[at++] = std::sqrt(2.0);
        out[at++] = std::sqrt(2.0f);
        out[at++] = std::numeric_limits<float>::max();
        out[at++] = std::numeric_limits<double>::epsilon();
        out[at++] = std::numeric_limits<float>::infinity();
        out[at++] = std::numeric_limits<short>::lowest();
        out[at++] = std::max(1, 3) + std::min(0.5, 0.25);
        out[at++] = half(7) + half(7.0f);
        out[at++] = FLT_EPSILON;
        out[at++] = INT_MIN;
        out[at++] = NAN;
        out[at++] = std::abs(-2.5f);
        double a = 1, b = 2;
        std::swap(a, b);
        out[at++] = a;
        out[at++] = std::pow(2.0, 3.0);
        out[at++] = (double)UINT64_MAX;
    }
    """
    device = open_device("virtual")
    out = device.zeros((16,), np.float64)
    device.compile(source, name="k.cu")["k"].launch(1, 1, (out,))
    single, double = np.finfo(np.float32), np.finfo(np.float64)
    expected = [np.pi, np.sqrt(2), np.sqrt(np.float32(2)), single.max, double.eps, np.inf, -32768, 3.25, 6.5]
    expected += [single.eps, -(2**31), np.nan, 2.5, 2, 8, 2.0**64]
    np.testing.assert_array_equal(out.download(), np.array(expected, np.float64))


def test_ndebug_silences_assert() -> None:
    kernel = "__global__ void k(int *x) { assert(*x); }\n"
    for header in ("assert.h", "cassert"):
        assert "__assertfail" in compile_cuda(f"#include <{header}>\n{kernel}").ptx
        assert "__assertfail" not in compile_cuda(f"#define NDEBUG\n#include <{header}>\n{kernel}").ptx


def test_somebodys_own_header_of_that_name_goes_before(tmp_path: Path) -> None:
    (tmp_path / "limits.h").write_text("#define INT_MAX 5\n")
    text = f'#include "limits.h"\nstatic_assert(INT_MAX == 5, "own");{KERNEL}'
    (tmp_path / "k.cu").write_text(text)
    assert ".entry k(" in compile_cuda(tmp_path / "k.cu").ptx
    angles = text.replace('"limits.h"', "<limits.h>")
    for included in (text, angles):
        assert ".entry k(" in compile_cuda(included, options=[f"-I{tmp_path}"]).ptx
    (tmp_path / "k.cu").write_text(angles.replace("== 5", "> 5"))
    assert ".entry k(" in compile_cuda(tmp_path / "k.cu").ptx
    assert "limits.h" in beside(angles, str(tmp_path), [])


def test_what_is_only_declared_cannot_be_used() -> None:
    from nnkit.errors import CompileError

    with pytest.raises(CompileError, match="incomplete"):
        compile_cuda("#include <vector>\n__global__ void k() { std::vector<int> v; }\n")


@pytest.mark.parametrize("headers", ["#include <cmath>\n#include <cuda/std/cmath>\n", "#include <math.h>\n"])
def test_mathematics_of_whole_numbers_is_that_of_double(headers: str) -> None:
    """As in C++: `sqrt(2)` is no choice between float and double; what has a float already stays one."""
    doubles = [
        "sqrt(2)",
        "pow(2, 0.5f)",
        "fmod(7, 4.5f)",
        "fmax(1, 2)",
        "exp(true)",
        "floor('a')",
        "pow(2, 3)",
    ]
    floats = ["sqrt(2.f)", "pow(2.f, .5f)", "fmax(1.f, 2.f)", "floor(2.5f)"]
    sizes = ", ".join(f"int(sizeof({call}))" for call in doubles + floats)
    body = f"int sizes[] = {{{sizes}}};\n  o[threadIdx.x] = sizes[threadIdx.x];"
    source = f"{headers}__global__ void k(int *o) {{\n  {body}\n}}\n"
    device = open_device("virtual")
    result = device.zeros((len(doubles + floats),), np.int32)
    device.compile(source, name="a.cu")["k"].launch(1, len(doubles + floats), (result,))
    assert result.download().tolist() == [8] * len(doubles) + [4] * len(floats)
    with pytest.raises(CompileError, match=r"ambiguous|more than one|no instance"):
        device.compile(source.replace("pow(2, 3)", "pow(nullptr, 3)"), name="a.cu")


CUB = r"""
#include <cub/cub.cuh>

__global__ void sort(int *values)
{
    using Sort = cub::BlockMergeSort<int, 64, 4>;
    __shared__ typename Sort::TempStorage storage;
    int own[4];
    for (int i = 0; i < 4; ++i)
        own[i] = values[threadIdx.x * 4 + i];
    Sort(storage).Sort(own, [](int a, int b) { return a > b; });
    for (int i = 0; i < 4; ++i)
        values[threadIdx.x * 4 + i] = own[i];
}

__global__ void rest(const int *values, int *largest, int *steps, int *turned)
{
    using Reduce = cub::WarpReduce<int>;
    using Difference = cub::BlockAdjacentDifference<int, 64>;
    using Shuffle = cub::BlockShuffle<int, 64>;
    __shared__ typename Reduce::TempStorage reduce[2];
    __shared__ typename Difference::TempStorage difference;
    __shared__ typename Shuffle::TempStorage shuffle;
    const int t = threadIdx.x, warp = t / 32;
    const int found = Reduce(reduce[warp]).Reduce(values[t], [](int a, int b) { return a > b ? a : b; });
    if (t % 32 == 0)
        largest[warp] = found;
    int own[1] = {values[t]}, step[1];
    Difference(difference).SubtractLeft(own, step, [](int a, int b) { return a - b; });
    steps[t] = step[0];
    Shuffle(shuffle).Rotate(values[t], turned[t], 5);
}
"""


def test_cub_for_blocks_and_warps() -> None:
    device = open_device("virtual")
    module = device.compile(CUB, name="cub.cu")
    given = np.random.default_rng(1).integers(-1000, 1000, 256).astype(np.int32)
    values = given.copy()
    module["sort"].launch(1, 64, (values,))
    assert values.tolist() == sorted(given.tolist(), reverse=True)
    largest, steps, turned = np.zeros(2, np.int32), np.zeros(64, np.int32), np.zeros(64, np.int32)
    module["rest"].launch(1, 64, (given, largest, steps, turned))
    assert largest.tolist() == given[:64].reshape(2, 32).max(1).tolist()
    assert steps.tolist() == np.diff(given[:64], prepend=0).tolist()
    assert turned.tolist() == np.roll(given[:64], -5).tolist()


def test_a_program_that_talks_to_others_compiles() -> None:
    source = """
#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>
int opened(const char *host) { hostent *found = gethostbyname(host); return socket(AF_INET, 1, found != 0); }
"""
    assert ".entry k(" in compile_cuda(source + KERNEL + "int main() { return opened(0); }\n").ptx
