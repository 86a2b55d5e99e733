"""Ordinary files: kernels beside host code. What is left out must not change what a kernel means."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnkit import open_device
from nnkit.device.compile import compile_cuda
from nnkit.errors import CompileError, UsageError

WHOLE = r"""
#include <stdio.h>
#include <chrono>
#include <iostream>
#include <string>
#include <vector>
#include <cuda_runtime.h>
#define N 100
#define CHECK(x) do { cudaError_t e = x; if (e != cudaSuccess) { printf("%s", "}{"); exit(1); } } while (0)
#ifdef UNKNOWN
int broken( {
#else
int fine() { return 3; }
#endif
#if 0
don't {
#endif
int counter = 0;
std::vector<int> data;
struct P { int a; P(int x) : a(x), b{3} {} int b; std::string name() { return "}"; } };
template <typename T> T host_t(T x) { return x + 1; }
const char *s = R"(}}}{{{ " ')";
__device__ float sq(float x) { return x * x; }
constexpr int K = 7;
namespace ns { void f() { std::cout << "x"; } __global__ void k2(int *x) { *x = K; } }
__global__ void k(float *x) { x[threadIdx.x] = sq(x[threadIdx.x]) + N; }
auto lam = [](int a) { return a; };
std::vector<float> make(const std::string &s, std::vector<int> *p) { return {}; }
class Timer { std::chrono::time_point<int> t; void go() { x; } };
int main(int argc, char **argv) {
  k<<<1, 2>>>(nullptr);
  CHECK(cudaGetLastError());
  std::vector<int> v{1, 2, 3};
  auto f = [&](int a) { return v[a]; };
  return 0;
}
"""


@pytest.fixture(autouse=True)
def cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of this test's own."""
    monkeypatch.setenv("NNKIT_CACHE_DIR", str(tmp_path / "cache"))


def entries(ptx: str) -> list[str]:
    return re.findall(r"\.entry (\w+)", ptx)


def code(ptx: str) -> str:
    """The PTX but for what tells the lines and the options."""
    return re.sub(r"^\s*(?:\.loc|\.file|//).*\n|//.*$", "", ptx, flags=re.MULTILINE)


def refusal(source: str, options: Sequence[str] = ()) -> str:
    with pytest.raises(CompileError) as caught:
        compile_cuda(source, "a.cu", options)
    return str(caught.value).splitlines()[0]


def test_a_whole_program_compiles_and_runs() -> None:
    device = open_device("virtual")
    module = device.compile(WHOLE, name="a.cu")
    assert sorted(module.kernels) == ["k(float*)", "ns::k2(int*)"]
    x, y = device.upload(np.array([1, 2], np.float32)), device.zeros((1,), np.int32)
    module["k"].launch(1, 2, (x,))
    module["k2"].launch(1, 1, (y,))
    assert x.download().tolist() == [101, 104]
    assert y.download().tolist() == [7]


def test_it_is_said_and_lines_stay(tmp_path: Path) -> None:
    compiled = compile_cuda(WHOLE, name="a.cu")
    assert compiled.host_code_left_out
    line = WHOLE.splitlines().index(
        next(line for line in WHOLE.splitlines() if line.startswith("__global__ void k(float"))
    )
    assert re.search(rf"\.loc\s+1 {line + 1} ", compiled.ptx)
    assert not compile_cuda('extern "C" __global__ void k() {}\n').host_code_left_out


@pytest.mark.parametrize(
    "host",
    [
        "int main() { return 0; }",
        "int main() try { return 0; } catch (...) { return 1; }",
        'static inline void f(const char *a = "){") { }',
        "void f() { const char c = '{', d = '\\'', *e = \"\\\"}\"; int g = 1'000'000; }",
        'void f() { auto s = R"x(} )" \' )x"; } // }',
        "void f() { /* } */ // } \\\n } still a comment\n }",
        "void f() {\n#if 0\n}}} don't\n#else\n int x;\n#endif\n}",
        "void f() {\n#define INNER {\n#undef INNER\n}",
        "template <int A = (3 > 2), typename B = int> B f(B x) { return A < x ? x : B(1); }",
        "auto f(int a) -> decltype(a + 1) { return a; }",
        "struct H { std::vector<int> v; H() : v{1, 2}, w({3}) { } std::vector<int> w; ~H() { v.clear(); } };",
        "struct H { int a; void f(); static int g; }; void H::f() { a = 3; } int H::g = 5;",
        "std::function<void(int)> f(std::map<std::string, std::vector<int>> &m) { return [](int) {}; }",
        "std::ostream &operator<<(std::ostream &o, const float4 &f) { return o << f.x; }",
        "float4 operator+(const float4 &a, int b) { throw 3; }",
        "typedef std::chrono::high_resolution_clock Clock; Clock::time_point t0;",
        "using namespace std; using Clock = std::chrono::steady_clock;",
        'static const std::string names[] = {"a{", "b"};',
        "int table[2][2] = {{1, 2}, {3, 4}}, other = 3; double (*pointer)(double) = nullptr;",
        'extern "C" { int c_function(int a) { return a; } int c_variable; }',
        "namespace a::b { namespace { int f() { return 1; } } inline namespace c { int g() { return 2; } } }",
        "__host__ int f() { return 1; } __host__ int g();",
        "[[nodiscard]] __attribute__((noinline)) int f() noexcept(true) { return 1; }",
        'enum class E : int { a, b }; std::string name(E e) { return e == E::a ? "{" : "}"; }',
        "template <typename T> struct Wrapper { T *p; Wrapper(size_t n) { cudaMalloc(&p, n); } };",
        "template <> void specialised<int>(int x);",
        "void launch(float *x) { k<<<dim3(1, 2), 3, 0, nullptr>>>(x); }",
        "#include <thrust/device_vector.h>\n#include <mpi.h>\nvoid f(thrust::device_vector<int> &v) {}",
        "int unknown_type_here(Unknown *u, cublasHandle_t h) { return 0; }",
        "TEST(Suite, name) { EXPECT_EQ(1, 2); }",
        "struct FileInfo; struct stat buffer; union U { int a; float b; };",
        "int f(int a[], int (*b)(int)) { return a[0]; }",
        'static_assert(sizeof(int) == 4, "{");',
    ],
)
def test_host_code_of_every_kind_is_left_out(host: str) -> None:
    kernel = (
        "#include <functional>\n#include <iostream>\n#include <map>\n#include <string>\n#include <vector>\n"
        "__device__ int twice(int x) { return 2 * x; }\n"
        "__global__ void k(float *x) { x[threadIdx.x] = twice(threadIdx.x); }\n"
    )
    alone = code(compile_cuda(kernel, name="a.cu").ptx)
    for text in (f"{kernel}{host}\n", f"{host.replace('k<<<', 'q<<<')}\n{kernel}"):
        if host.startswith(("std::", "static const std")) and not text.startswith("#"):
            continue
        compiled = compile_cuda(text, name="a.cu")
        assert compiled.host_code_left_out or host.startswith(
            ("#", "struct FileInfo", "static_assert", "enum")
        )
        assert entries(compiled.ptx) == ["_Z1kPf"]
        assert code(compiled.ptx) == alone


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "int f(int x) { return x; }\n__global__ void k(int *x) {\n  *x = f(3);\n}\n",
            r"a.cu:1: error: .*calls f, which is host",
        ),
        ("int n = 3;\n__global__ void k(int *x) {\n  *x = n;\n}\n", "a.cu:3: error: .*n"),
        (
            "#include <vector>\n__global__ void k(int *x) {\n  std::vector<int> v;\n}\nint main() {}\n",
            "a.cu:3: error: ",
        ),
        (
            "int main() { return 0; }\n__global__ void k(int *x) {\n  *x = missing;\n}\n",
            'a.cu:3: error: identifier "missing"',
        ),
        ("int main() { return 0;\n__global__ void k(int *x) { }\n", "a.cu:1.*error: "),
        (
            "#define OPEN {\nint main() OPEN return 0; }\n__global__ void k(int *x) { }\n",
            "cannot be left out: a.cu:2: the macro OPEN",
        ),
        (
            "struct S { std::string s; int a; };\n__global__ void k(S *x) {\n  x->a = 1;\n}\n",
            "a.cu:[13]: error: ",
        ),
        (
            '#include "own.h"\nint main() {}\n__global__ void k(int *x) { }\n',
            'a.cu:1: error: .*"own.h": give its folder',
        ),
        ("#include <somebodys/library.hpp>\nint main() {}\n", "a.cu:1: error: .*give its folder"),
        ("#error not this way\nint main() {}\n", "a.cu:1: error: .*not this way"),
        ("__global__ void k(int *x) { k<<<1, 1>>>(x); }\nint main() {}\n", "a.cu:1: error: "),
    ],
)
def test_what_cannot_be_separated_is_refused_with_its_line(source: str, words: str) -> None:
    assert re.search(words, refusal(source))


def test_own_headers_are_treated_the_same_way(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "common").mkdir()
    (tmp_path / "inner" / "a.h").write_text(
        '#pragma once\n#include "../b.h"\n#include <vector>\n'
        "static int host() { return std::vector<int>{1}[0]; }\n"
    )
    (tmp_path / "b.h").write_text(
        "#ifndef B_H\n#define B_H\ninline void say() { std::cout << 1; }\n#define TWO 2\n#endif\n"
    )
    header = tmp_path / "common" / "c.h"
    header.write_text("int c() { return 0; }\n__device__ int dev() { return 3; }\n")
    (tmp_path / "k.cu").write_text(
        '#include "inner/a.h"\n#include "b.h"\n#include <c.h>\n'
        "__global__ void k(int *x) { *x = TWO + dev(); }\n"
        "int main() { say(); return host(); }\n"
    )
    compiled = compile_cuda(tmp_path / "k.cu", options=[f"-I{tmp_path / 'common'}"])
    assert entries(compiled.ptx) == ["_Z1kPi"]
    files = re.findall(r'\.file\s+\d+ "(.*?)"', compiled.ptx)
    assert str(tmp_path / "k.cu") in files
    # Another header, another result.
    (tmp_path / "common" / "c.h").write_text("int c() { return 0; }\n__device__ int dev() { return 4; }\n")
    assert code(compile_cuda(tmp_path / "k.cu", options=[f"-I{tmp_path / 'common'}"]).ptx) != code(
        compiled.ptx
    )
    (tmp_path / "b.h").write_text(
        "\n\n__device__ int wrong() { return nothing; }\nint host2() { return 0; }\n"
    )
    with pytest.raises(CompileError, match=rf"^{tmp_path}/b.h:3: error: "):
        compile_cuda(tmp_path / "k.cu", options=[f"-I{tmp_path / 'common'}"])


def test_conditions_are_those_of_the_compiler() -> None:
    source = r"""
    #if defined(__CUDACC__) && FLAG + 1 > 2
    #define MARK __global__
    #else
    #define MARK
    #endif
    #ifdef __CUDA_ARCH__
    #define VALUE 5
    #else
    #define VALUE 6 }{
    #endif
    MARK void k(int *x) { *x = VALUE; }
    int main() { return 0; }
    """
    assert entries(compile_cuda(source, options=["-DFLAG=2"]).ptx) == ["_Z1kPi"]
    assert "there is no device code in it" in refusal(source, options=["-DFLAG=1"])


def test_templates_of_a_file_with_host_code() -> None:
    source = """
    template <class T, int N> __global__ void fill(T *x) { x[threadIdx.x] = N; }
    int main() { fill<float, 3><<<1, 1>>>(nullptr); }
    """
    device = open_device("virtual")
    x = device.zeros((2,), np.float32)
    module = device.compile(source, name="a.cu")
    module["fill<float, 3>"].launch(1, 2, (x,))
    assert x.download().tolist() == [3, 3]
    with pytest.raises(UsageError, match="there is no kernel 'nope<1>'"):
        module["nope<1>"]


PIECES = st.sampled_from(
    [
        "// a comment with { and \" and '",
        "/* { ( \" ' \n } */",
        'const char *host_text = "} __global__ void no() { \\" ";',
        'const char *raw = R"q(} ") ; __device__ )q";',
        "static int host_function(int a) { return a > 3 ? '{' : '\\''; }",
        "template <class T> T host_template(T a) { auto f = [=](T b) { return a < b; }; return f(1); }",
        "#if 0\n } } don't \"\n#endif",
        "#ifdef SOMETHING\nint unbalanced( {\n#else\nint balanced() { return 1; }\n#endif",
        "#define CALL(x) do { x; } while (0)",
        "int main(int argc, char **argv) { CALL(0); k0<<<1, 1>>>(nullptr); }",
        "struct Host { std::vector<int> v; int size() const { return 0; } };",
        'std::string global_text = "{";',
        "enum Kind { first, second };",
        "constexpr int constant() { return 4; }",
        "void long_line(int a, \\\n  int b) { }",
    ]
)
DEVICE = st.sampled_from(
    [
        "__device__ int helper{n}(int x) {{ return x * {n} + (x << {n}); }}",
        "template <int N> __device__ __forceinline__ int helper{n}(int x) {{ return x < N ? x : N; }}",
        "struct Pair{n} {{ int a, b; __device__ int sum() const {{ return a + b * {n}; }} }};",
        "__constant__ int table{n}[3] = {{1, {n}, '{{'}};",
        "#define KERNEL_BODY{n} x[threadIdx.x] += {n};",
        "namespace inner{n} {{ __device__ int f(int x) {{ return x ^ {n}; }} }}",
    ]
)


def kernel_of(pieces: list[str]) -> str:
    """A kernel that uses all that the pieces declare."""
    lines = []
    for number, piece in enumerate(pieces):
        used = {
            "__device__ int": f"x[1] += helper{number}(x[0]);",
            "template": f"x[1] += helper{number}<7>(x[0]);",
            "struct": f"Pair{number} p{number} = {{x[0], x[1]}}; x[2] = p{number}.sum();",
            "__constant__": f"x[1] += table{number}[x[0]];",
            "#define": f"KERNEL_BODY{number}",
            "namespace": f"x[1] += inner{number}::f(x[0]);",
        }
        lines += [line for start, line in used.items() if piece.startswith(start)]
    return "__global__ void k0(int *x) { " + " ".join(lines) + " }"


@settings(
    max_examples=int(os.environ.get("NNKIT_HOST_CODE_EXAMPLES", "12")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    device=st.lists(DEVICE, min_size=1, max_size=4),
    host=st.lists(PIECES, min_size=1, max_size=8),
    data=st.data(),
)
def test_host_code_around_kernels_changes_nothing(
    device: list[str], host: list[str], data: st.DataObject
) -> None:
    """The oracle is the file without host code, compiled in whole."""
    written = [piece.format(n=number) for number, piece in enumerate(device)]
    written.append(kernel_of(device))
    mixed = list(written)
    for piece in dict.fromkeys(host):
        mixed.insert(data.draw(st.integers(0, len(mixed))), piece)
    headers = "#include <string>\n#include <vector>\n"
    alone = compile_cuda(headers + "\n".join(written) + "\n", name="a.cu")
    beside = compile_cuda(headers + "\n".join(mixed) + "\n", name="a.cu")
    assert entries(beside.ptx) == ["_Z2k0Pi"]
    assert code(alone.ptx) == code(beside.ptx)
    # A change in the device code is seen: the comparison is none of empty texts.
    assert code(alone.ptx) != code(compile_cuda(alone_changed(headers, written), name="a.cu").ptx)


def alone_changed(headers: str, written: list[str]) -> str:
    return headers + "\n".join(written).replace("void k0(int *x) { ", "void k0(int *x) { x[9] = 1; ") + "\n"


def test_a_missing_library_names_its_wheel() -> None:
    from nnkit.device.source.headers import where_to_get

    assert where_to_get("curand_kernel.h") == "pip install nvidia-curand"
    assert where_to_get("cub/nothing.cuh") == "pip install nvidia-cuda-cccl"
    assert where_to_get("own.h") == "give its folder as -IFOLDER"
    source = "template <class T> class A { A(); };\n#include <cub/nothing.cuh>\n__global__ void k() {}\n"
    assert refusal(source).endswith('"cub/nothing.cuh": pip install nvidia-cuda-cccl (and 1 more error)')


def test_what_nvcc_gives_unasked() -> None:
    kernel = "__global__ void k(float *x) { register int i = INT_MAX; x[0] = std::sqrt(x[1]) + uint(i); }\n"
    source = f"int main() {{}}\n{kernel}"
    assert entries(compile_cuda(source).ptx) == ["_Z1kPf"]
