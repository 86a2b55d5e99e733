"""Kernels by the names of their source: demangled, found, instantiated when asked for."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from nnkit import open_device
from nnkit.device.compile import compile_cuda
from nnkit.device.names.demangle import demangle
from nnkit.device.names.kernels import expression, find_kernel, split_parameters, variables
from nnkit.device.virtual import VirtualDevice
from nnkit.errors import CompileError, LaunchError, NnkitError, UsageError
from nnkit.ptx.interface import Interface

KINDS = r"""
struct P { int a; };
template <class T, int N> struct A { T v[N]; };
namespace ns { namespace in {
struct Q {}; enum E { a, b }; template <class T> struct V {};
__global__ void k(Q *, V<Q>, const V<Q> *, V<float> *, E) {}
} }
namespace { __global__ void anon(int *) {} }
static __global__ void stat(P *, P, const P &, P *const, const P *const *, volatile int *) {}
__global__ void nothing() {}
__global__ void fp(void (*f)(int, P), float (*)[3], const char *, unsigned char, unsigned long long,
    A<float, 3>, A<A<float, 3>, 2> *, A<float, 3> **) {}
template <class T, int N, bool B> __global__ void t(T *, A<T, N>, T) {}
template __global__ void t<float, 3, true>(float *, A<float, 3>, float);
template __global__ void t<P, -0 + 7, false>(P *, A<P, 7>, P);
template <class... T> __global__ void pack(T *...) {}
template __global__ void pack<int, float>(int *, float *);
template __global__ void pack<>();
template <ns::in::E e> __global__ void en(int *) {}
template __global__ void en<ns::in::b>(int *);
template <void (*f)(int)> __global__ void fa(int *) {}
__device__ void ff(int) {}
template __global__ void fa<ff>(int *);
struct S { template <class T> struct I {}; };
__global__ void ni(S::I<int>, S::I<S> *, S::I<S>) {}
template <unsigned N, char c> __global__ void u(int *__restrict__ a, const float *__restrict__ b) {}
template __global__ void u<5, 'x'>(int *, const float *);
template <template <class, int> class TT, class T> __global__ void tt(TT<T, 2>, T) {}
template __global__ void tt<A, float>(A<float, 2>, float);
namespace ns {
template <class T> __global__ void nt(T, const T *, in::V<T> &, P) {}
template __global__ void nt<in::Q>(in::Q, const in::Q *, in::V<in::Q> &, P);
}
"""


@pytest.fixture
def device() -> VirtualDevice:
    opened = open_device("virtual")
    assert isinstance(opened, VirtualDevice)
    return opened


def mangled(source: str) -> list[str]:
    return re.findall(r"\.entry (\w+)", compile_cuda(source).ptx)


def plain(spelled: str) -> str:
    """Both demanglers' spellings as one: const in front, no suffixes, no result."""
    spelled = re.sub(r"^void (?=\w)", "", spelled)
    spelled = re.sub(r"([\w:]+(?:<[^<>]*>)?) (const|volatile)(?=\W)", r"\2 \1", spelled)
    spelled = spelled.replace("&(ff(int))", "&ff").replace("(char)", "")
    return re.sub(r"(\d)u\b", r"\1", spelled).replace(" ", "")


@pytest.mark.skipif(shutil.which("c++filt") is None, reason="the oracle c++filt is not here")
def test_names_are_read_as_binutils_read_them() -> None:
    names = mangled(KINDS)
    assert len(names) >= 15
    said = subprocess.run(["c++filt", *names], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [plain(demangle(name)) for name in names] == list(map(plain, said))


@pytest.mark.parametrize(
    ("name", "spelled"),
    [
        ("add", "add"),
        ("_Z3addPf", "add(float*)"),
        ("_Z7nothingv", "nothing()"),
        ("_Z4fillIfLi3EEvPT_", "fill<float, 3>(float*)"),
        ("_Z1fPKfPVd", "f(const float*, volatile double*)"),
        ("_Z1fPFviE", "f(void (*)(int))"),
    ],
)
def test_names_are_spelled_as_in_a_source(name: str, spelled: str) -> None:
    assert demangle(name) == spelled


@pytest.mark.parametrize(
    "name", ["_Z", "_Z3ad", "_ZN2ns", "_Z1fT_", "_Z1fS5_", "_Z1fIX1E", "_Z1f" + "P" * 999, "_Z1f$"]
)
def test_what_is_no_mangled_name_stays(name: str) -> None:
    assert demangle(name) == name


def test_every_beginning_of_a_name_is_survived() -> None:
    for name in mangled(KINDS):
        for length in range(len(name)):
            demangle(name[:length])
            demangle(name[:length] + "E" + name[length:])


OWN = (
    "plain",
    "_Z3addPf",
    "_ZN2ns1kEPi",
    "_ZN2ns1kEPf",
    "_Z4fillIfLi3EEvPT_",
    "_Z4fillIjLi3EEvPT_",
    "_Z5ofourPKj",
)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("plain", "plain"),
        ("add", "_Z3addPf"),
        ("::add", "_Z3addPf"),
        ("add(float *)", "_Z3addPf"),
        ("_Z3addPf", "_Z3addPf"),
        ("ns::k(int*)", "_ZN2ns1kEPi"),
        ("k(float*)", "_ZN2ns1kEPf"),
        ("fill<float,3>", "_Z4fillIfLi3EEvPT_"),
        ("fill< unsigned int , 3u >", "_Z4fillIjLi3EEvPT_"),
        ("ofour(const unsigned int*)", "_Z5ofourPKj"),
        ("ad", None),
        ("add(int*)", None),
        ("fill<double, 3>", None),
        ("constunsigned", None),
    ],
)
def test_a_kernel_is_found_by_what_people_call_it(name: str, found: str | None) -> None:
    assert find_kernel(name, OWN) == found


@pytest.mark.parametrize(("name", "count"), [("k", 2), ("ns::k", 2), ("fill", 2)])
def test_a_name_of_several_lists_them(name: str, count: int) -> None:
    with pytest.raises(UsageError, match=rf"^there are {count} kernels '{name}': ask for one of '.*', '.*'$"):
        find_kernel(name, OWN)


def test_expressions() -> None:
    assert expression("fill<float, 3>") == "fill<float, 3>"
    assert expression("f(int*)") == "static_cast<void (*)(int*)>(f)"
    assert expression("ns::f<A<(3)>>(void (*)(int))") == "static_cast<void (*)(void (*)(int))>(ns::f<A<(3)>>)"
    assert split_parameters("f<(3)>") == ("f<(3)>", None)
    for wrong in ("f<3>\n#include <x>", "f<3>; int x", "a\\b<>"):
        with pytest.raises(UsageError, match="no name"):
            expression(wrong)


TEMPLATES = r"""
__device__ int calls = 0;
template <typename T, int N = 7> __global__ void fill(T *x) { x[threadIdx.x] = N; atomicAdd(&calls, 1); }
__global__ void count(int *x) { *x = calls; }
namespace deep { __global__ void over(int *x) { *x = 1; }  __global__ void over(float *x) { *x = 2; } }
__device__ int helper(int x) { return x; }
"""


def test_templates_are_compiled_when_asked_for(device: VirtualDevice) -> None:
    module = device.compile(TEMPLATES, name="t.cu")
    assert sorted(module.kernels) == ["count(int*)", "deep::over(float*)", "deep::over(int*)"]
    x, counted = device.zeros((4,), np.float32), device.zeros((1,), np.int32)
    for name, value in (("fill<float, 3>", 3), ("fill<float>", 7), ("fill<float, 2 + 3>", 5)):
        module[name].launch(1, 4, (x,))
        assert (x.download() == value).all()
    # The variables are those of the module, whenever the kernel was compiled.
    module["count"].launch(1, 1, (counted,))
    assert counted.download()[0] == 12
    assert module["fill<float, 3>"] is module["fill<float, 3>"]
    module["deep::over(int *)"].launch(1, 1, (counted,))
    assert counted.download()[0] == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nope", "there is no kernel 'nope'; known: count"),
        ("nope<3>", 'there is no kernel .nope<3>. in t.cu: identifier "nope" is undefined'),
        ("over", "there are 2 kernels 'over': ask for one of 'deep::over"),
        ("fill", r"fill.* is a template: ask for it with its arguments"),
        ("helper(int)", "helper.*"),
        ("deep::over(double*)", "deep::over.*"),
    ],
)
def test_wrong_names_are_refused_in_a_line(device: VirtualDevice, name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        device.compile(TEMPLATES, name="t.cu")[name]
    assert "\n" not in str(caught.value)


def test_a_template_that_does_not_compile_says_where(device: VirtualDevice) -> None:
    source = "template <typename T> __global__ void k(T *x) {\n  x->member = 1;\n}\n"
    with pytest.raises(CompileError, match=r"^k.cu:2: error: "):
        device.compile(source, name="k.cu")["k<float>"]


def test_a_one_line_source_can_be_instantiated(device: VirtualDevice, tmp_path: Path) -> None:
    source = "template <int N> __global__ void k(int *x) { *x = N; } // as in k.cu"
    assert device.compile(f"{source}\n", name="k.cu")["k<3>"]
    path = tmp_path / "own.cu"
    path.write_text(source)
    assert device.compile(path)["k<4>"]


def test_variables_in_ptx() -> None:
    source = r"""
    __constant__ float c[3]; __device__ int d = 3; static __device__ double s[2]; __managed__ int m;
    __global__ void k(int *x) { printf("a%d", d); *x = c[1] + s[0] + m; }
    """
    assert sorted(
        name[-2:] if name.startswith("_Z") else name
        for name in variables(Interface(compile_cuda(source).ptx))
    )[:2]
    assert variables(Interface(compile_cuda('__global__ void k() { printf("a"); }').ptx)) == []


MISTAKES = r"""
__device__ float table[4];
namespace ns { template <typename T> __global__ void stray(T *x) { x[threadIdx.x + 1] = 0; } }
template __global__ void ns::stray<float>(float *x);
__global__ void behind(float *x) { table[threadIdx.x] = *x; }
__global__ void wrong(int x) { assert(x > 3); }
__global__ void stuck(int *x) { if (threadIdx.x & 32) __syncthreads(); else asm("bar.sync 1;"); *x = 1; }
__global__ void unknown(float *x) { asm volatile("wgmma.fence.sync.aligned;"); }
"""


@pytest.mark.parametrize(
    ("name", "block", "words"),
    [
        ("stray", 4, r"kernel ns::stray<float>\(float\*\) at m.cu:3, "),
        ("behind", 8, r"kernel behind\(float\*\) at m.cu:5, .* global variable table of"),
        ("wrong", 1, r"kernel wrong\(int\) at m.cu:6, .*assertion failed"),
        ("stuck", 64, r"kernel stuck\(int\*\), block"),
        ("stuck", 2000, r"kernel stuck\(int\*\): block"),
        ("unknown", 1, r"kernel unknown\(float\*\).*wgmma"),
    ],
)
def test_messages_name_kernels_and_variables_as_the_source_does(
    device: VirtualDevice, name: str, block: int, words: str
) -> None:
    module = device.compile(MISTAKES, name="m.cu")
    argument = (
        np.int32(1) if name == "wrong" else device.zeros((4,), np.int32 if name == "stuck" else np.float32)
    )
    with pytest.raises(NnkitError, match=words) as caught:
        module[name].launch(1, block, (argument,))
    assert "_Z" not in str(caught.value)


def test_modules_tell_of_templates(device: VirtualDevice) -> None:
    module = device.compile(
        "namespace ns { __global__ void put(int *x) { x[threadIdx.x] = 1; } }\n"
        "template <class T, int N> __global__ void __launch_bounds__(N) fill(T *x) { x[threadIdx.x] = N; }\n"
        "template <class T> __device__ T twice(T x) { return x + x; }\n"
    )
    assert repr(module).startswith("<module on virtual: kernels ")
    assert "; templates fill" in repr(module)
    with pytest.raises(
        UsageError, match=r"there is no kernel 'filled'; known: .*fill<\.\.\.>.* Did you mean"
    ):
        module["filled"]
    for nothing in ("twice", "twice<int>"):
        with pytest.raises(UsageError, match="there is no kernel"):
            module[nothing]


def test_a_byte_order_mark_is_no_part_of_the_source(device: VirtualDevice) -> None:
    source = '\ufeffextern "C" __global__ void one(int *x) { *x = 1; }\r\n'
    assert device.compile(source).kernels == ("one",)
    with pytest.raises(CompileError):
        device.compile(f" {source}")


def test_names_as_profilers_write_them(device: VirtualDevice) -> None:
    module = device.compile("template <class T> __global__ void k(T *x) { x[0] = 5; }")
    x = device.zeros((1,), np.int32)
    module["void k<int>(int*)"].launch(1, 1, (x,))
    assert x[0] == 5
    with pytest.raises(UsageError, match=r"^there is no kernel 'k<int>\(float\*\)' in kernel\.cu: "):
        module["k<int>(float*)"]
    with pytest.raises(UsageError, match="there is no kernel 'voided"):
        module["voided"]


def test_refused_arguments_are_not_called_by_mangled_names(device: VirtualDevice) -> None:
    module = device.compile('__global__ void k(int x) {}\nextern "C" __global__ void plain(int x) {}')
    for name, called in (("k", r"1 \(a 32-bit"), ("plain", r"1 \(plain_param_0, a 32-bit")):
        with pytest.raises(LaunchError, match=called):
            module[name].launch(1, 1, ("x",))
