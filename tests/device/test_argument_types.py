"""Arrays whose elements are not what the kernel reads: refused where that is certain, and nowhere else."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from nnkit.device import open_device
from nnkit.device.compile import compile_cuda
from nnkit.device.cuda import CudaDevice
from nnkit.device.virtual import VirtualDevice
from nnkit.errors import LaunchError
from nnkit.ptx.parse import parse
from nnkit.vm.prepare.inline import inline
from nnkit.vm.prepare.pointers import Element, elements
from tests.support.fake_driver import PTX

ARCHS = ["compute_90", "compute_100"]
"""Two generations of NVRTC's code: the first loads `.f32`, the second `.b32`."""

I = "int i = threadIdx.x;"  # noqa: E741


def kernel(parameters: str, body: str, before: str = "") -> str:
    """A source whose kernel is k."""
    return f'{before}\nextern "C" __global__ void k({parameters}) {{ {I} {body} }}'


def launch(
    device: VirtualDevice, source: str, dtypes: Sequence[npt.DTypeLike | None], arch: str = "compute_90"
) -> None:
    """Run k with 8 threads on arrays of those dtypes, zeros of 256 bytes, and the number 8 for None."""
    arrays = [
        np.int32(8) if dtype is None else device.zeros((256 // np.dtype(dtype).itemsize,), dtype)
        for dtype in dtypes
    ]
    device.compile(source, name="k.cu", arch=arch)["k"].launch(1, 8, arrays)


@pytest.fixture(scope="module")
def virtual() -> Any:
    device = open_device("virtual")
    yield device
    device.close()


TWICE = "y[i] = 2 * x[i];"
FLOATS = "const float *x, float *y"
REFUSED = {
    "float64 as float": (kernel(FLOATS, TWICE), ["f8", "f4"]),
    "int32 as float": (kernel(FLOATS, TWICE), ["i4", "f4"]),
    "int64 as float": (kernel(FLOATS, TWICE), ["i8", "f4"]),
    "float16 as float": (kernel(FLOATS, TWICE), ["f2", "f4"]),
    "bool as float": (kernel(FLOATS, TWICE), ["?", "f4"]),
    "complex128 as float": (kernel(FLOATS, TWICE), ["c16", "f4"]),
    "written to float64": (kernel(FLOATS, TWICE), ["f4", "f8"]),
    "written to int32": (kernel(FLOATS, TWICE), ["f4", "i4"]),
    "float as double": (kernel("const double *x, double *y", TWICE), ["f4", "f8"]),
    "int64 as double": (kernel("const double *x, double *y", TWICE), ["i8", "f8"]),
    "a copy to another type": (kernel(FLOATS, "y[i] = x[i];"), ["f8", "f4"]),
    "a template": (
        "template <typename T> __global__ void k(const T *x, T *y) { y[threadIdx.x] = x[threadIdx.x] * 3; }"
        "\ntemplate __global__ void k<float>(const float *, float *);",
        ["i4", "f4"],
    ),
    "a macro": (kernel("const REAL *x, REAL *y", TWICE, "#define REAL double"), ["i4", "f8"]),
    "a loop": (kernel(FLOATS, "float s = 0; for (int j = 0; j < i; j++) s += x[j]; y[i] = s;"), ["f8", "f4"]),
    "vectors": (kernel("const float4 *x, float4 *y", "float4 v = x[i]; v.x += v.w; y[i] = v;"), ["i4", "f4"]),
    "casts beside a declaration": (
        kernel(FLOATS, "float4 v = ((const float4 *)x)[i]; y[i] = v.x + v.w;"),
        ["i4", "f4"],
    ),
    "an atomic": (kernel("float *x, float *y", "atomicAdd(x, 1.5f); atomicAdd(y, x[0]);"), ["f8", "f4"]),
    "a function": (
        kernel(FLOATS, "y[i] = f(x, i);", "__device__ __noinline__ float f(const float *p, int i) {"
               " return p[i] * 2; }"),
        ["f8", "f4"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("arch", ARCHS)
def test_an_index_of_64_bits_is_no_pointer(virtual: VirtualDevice, arch: str) -> None:
    source = kernel("float *x, long long first", "x[first + i] *= 2;")
    k = virtual.compile(source, name="k.cu", arch=arch)["k"]
    with pytest.raises(LaunchError, match=r"argument 1 of 2 .*float32"):
        k.launch(1, 8, (virtual.zeros((64,), np.int32), np.int64(3)))
    k.launch(1, 8, (virtual.zeros((64,), np.float32), np.int64(3)))


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("what", REFUSED)
def test_what_is_certainly_something_else_is_refused(virtual: VirtualDevice, what: str, arch: str) -> None:
    source, dtypes = REFUSED[what]
    if "template" in source:
        module = virtual.compile(source, name="k.cu", arch=arch)
        found = module[module.kernels[0]]
        with pytest.raises(LaunchError, match="argument 1 of 2"):
            found.launch(1, 8, [virtual.zeros((64,), dtype) for dtype in dtypes])
        return
    with pytest.raises(LaunchError) as caught:
        launch(virtual, source, dtypes, arch)
    message = str(caught.value)
    wrong = next(i for i, dtype in enumerate(dtypes, 1) if dtype != ("f8" if "double" in source else "f4"))
    assert "\n" not in message
    assert f"argument {wrong} of 2" in message
    assert "view(" in message
    # The same launch with what the kernel wants.
    launch(virtual, source, ["f8" if "double" in source else "f4"] * 2, arch)


INTEGERS = "const int *x, int *y"
NEXT = "y[i] = x[i] + 1;"
NOT_INTEGERS = {
    "int64 as int": (kernel(INTEGERS, NEXT), ["i8", "i4"], "int32"),
    "int16 as int": (kernel(INTEGERS, NEXT), ["i2", "i4"], "int32"),
    "bool as int": (kernel(INTEGERS, NEXT), ["?", "i4"], "int32"),
    "float64 as int": (kernel(INTEGERS, NEXT), ["f8", "i4"], "int32"),
    "written to int64": (kernel(INTEGERS, NEXT), ["i4", "i8"], "int32"),
    "written to float64": (kernel(INTEGERS, NEXT), ["i4", "f8"], "int32"),
    "places of threads": (kernel("int *x", "x[threadIdx.x] = threadIdx.x;"), ["i8"], "int32"),
    "int32 as long long": (kernel("long long *x", "x[i] += 3;"), ["i4"], "int64"),
    "int64 as unsigned": (kernel("unsigned *x", "x[i] *= 3;"), ["u8"], "uint32"),
    "int32 as short": (kernel("short *x", "x[i] += 3;"), ["i4"], "int16"),
    "a sum of more bits": (
        kernel("const int *x, long long *y", "long long s = 0; for (int j = 0; j < i; j++) s += x[j];"
               " y[i] = s;"),
        ["i8", "i8"],
        "int32",
    ),
    "an index": (kernel("const int *x, float *y", "y[x[i]] = 2.5f;"), ["i8", "f4"], "int32"),
    "to floats": (kernel("const int *x, float *y", "y[i] = x[i];"), ["i8", "f4"], "int32"),
    "compared": (kernel(INTEGERS, "if (x[i] < 5) y[i] = 1;"), ["i8", "i4"], "int32"),
    "equal, and more": (kernel("int *x", "if (x[i] == -1) x[i] = x[i + 8] + 1;"), ["i8"], "int32"),
    "an atomic": (kernel(INTEGERS, "atomicAdd(y, x[i]);"), ["i4", "i8"], "int32"),
    "a count": (kernel(INTEGERS, "atomicAdd(&y[x[i]], 1);"), ["i8", "i4"], "int32"),
    "a copy to another width": (kernel(INTEGERS, "y[i] = x[i];"), ["i8", "i4"], "int32"),
    "a name": (kernel("const T *x, T *y", NEXT, "typedef int T;"), ["i8", "i4"], "int32"),
    "a mangled name": ("__global__ void k(int *x) { x[threadIdx.x] += 1; }", ["i8"], "int32"),
}  # fmt: skip


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("what", NOT_INTEGERS)
def test_integers_of_another_width_are_refused(virtual: VirtualDevice, what: str, arch: str) -> None:
    source, dtypes, wanted = NOT_INTEGERS[what]
    with pytest.raises(LaunchError, match=rf"argument \d of {len(dtypes)} .*view\('{wanted}'\)"):
        launch(virtual, source, dtypes, arch)


def test_the_integers_of_a_template_are_judged(virtual: VirtualDevice) -> None:
    source = "template <typename T> __global__ void k(T *x) { x[threadIdx.x] += 1; }"
    module = virtual.compile(source, name="k.cu")
    for name, right, wrong in (("k<int>", "i4", "i8"), ("k<long long>", "u8", "u4")):
        module[name].launch(1, 8, [virtual.zeros(64, right)])
        with pytest.raises(LaunchError, match="argument 1 of 1"):
            module[name].launch(1, 8, [virtual.zeros(64, wrong)])


AS = "y[i] = __int_as_float(x[i]) * 2;"
PASSED: dict[str, tuple[str, Sequence[npt.DTypeLike | None]]] = {
    "floats": (kernel(FLOATS, TWICE), ["f4", "f4"]),
    "complex64 as float2": (
        kernel("const float2 *x, float2 *y", "float2 v = x[i]; y[i] = make_float2(v.x * 2, -v.y);"),
        ["c8", "c8"],
    ),
    "complex128 as double2": (
        kernel("const double2 *x, double2 *y", "double2 v = x[i]; y[i] = make_double2(v.x * 2, -v.y);"),
        ["c16", "c16"],
    ),
    "a structured dtype": (kernel(FLOATS, TWICE), ["f4,f4", [("a", "f4"), ("b", "i4")]]),
    "bytes as memory": (kernel(FLOATS, TWICE), ["u1", "i1"]),
    "raw memory": (kernel(FLOATS, TWICE), ["V4", "S4"]),
    "integers that are moved": (kernel("float *x, int n", "float t = x[i]; x[i + 8] = t;"), ["i4", None]),
    "a copy of integers": (kernel(FLOATS, "y[i] = x[i];"), ["i4", "i4"]),
    "a copy of doubles by halves": (kernel(FLOATS, "y[i] = x[i];"), ["f8", "f8"]),
    "a copy of bytes": (kernel("const unsigned char *x, unsigned char *y", "y[i] = x[i];"), ["f4", "f4"]),
    "a copy of words": (kernel("const int *x, int *y", "y[i] = x[i];"), ["f8", "f8"]),
    "a copy of vectors": (kernel("const float4 *x, float4 *y", "y[i] = x[i];"), ["i4", "i4"]),
    "zeros": (kernel("float *x, float *y", "x[i] = 0; y[i] = 0;"), ["i4", "f8"]),
    "uchar4 as a word": (
        kernel("const uchar4 *x, uchar4 *y", "uchar4 v = x[i]; y[i] = make_uchar4(v.w, v.z, v.y, v.x);"),
        ["u1", "u4"],
    ),
    "float4 of floats": (kernel("const float *x, float4 *y", "y[i] = ((const float4 *)x)[i];"), ["f4", "f4"]),
    "bits of floats": (kernel("const float *x, int *y", "y[i] = __float_as_int(x[i]) >> 23;"), ["f4", "i4"]),
    "bits made of floats": (
        kernel("const float *x, int *y", "y[i] = __float_as_int(2 * x[i]);"),
        ["f4", "i4"],
    ),
    "floats made of bits": (kernel("const int *x, float *y", AS), ["i4", "f4"]),
    "floats made of unsigned bits": (
        kernel("const unsigned *x, float *y", "y[i] = __uint_as_float(x[i]) * 2;"),
        ["u4", "f4"],
    ),
    "floats in longs": (
        kernel("const long long *x, float *y", "y[i] = 2 * __int_as_float((int)(x[i] >> 32));"),
        ["i8", "f4"],
    ),
    "doubles made of bits": (
        kernel("const long long *x, double *y", "y[i] = __longlong_as_double(x[i]) * 2;"),
        ["u8", "f8"],
    ),
    "bits of another name": (kernel("const WORD *x, float *y", AS, "typedef int WORD;"), ["i4", "f4"]),
    "a pointer that is cast": (
        kernel("const void *x, float *y", "y[i] = ((const float *)x)[i] * 2;"),
        ["i4", "f4"],
    ),
    "a cast in C++": (
        kernel("const W *x, float *y", "y[i] = *reinterpret_cast<const float *>(x + i);", "typedef int W;"),
        ["i4", "f4"],
    ),
    "a union": (
        kernel("const U *x, float *y", "y[i] = x[i].f * 2;", "union U { float f; int i; };"),
        ["i4", "f4"],
    ),
    "floats and integers": (
        kernel("const P *x, float *y", "y[i] = x[i].a * x[i].b;", "struct P { float a; int b; };"),
        ["i4", "f4"],
    ),
    "an arena": (
        kernel("int *x, float *y", "float *f = (float *)(x + 8); x[i] = i; f[i] = x[i] * 0.5f; y[i] = f[i];"),
        ["i4", "f4"],
    ),
    "a sort of floats by their bits": (
        kernel("unsigned *x, unsigned *y", "y[i] = x[i] ^ (x[i] >> 31 ? ~0u : 1u << 31);"),
        ["f4", "u4"],
    ),
    "halves in uint16": (
        kernel("const unsigned short *x, float *y", "y[i] = __uint_as_float((unsigned)x[i] << 16) * 2;"),
        ["u2", "f4"],
    ),
    "booleans as bytes": (
        kernel("const unsigned char *x, float *y", "y[i] = x[i] ? 1.5f : 2.5f;"), ["?", "f4"]
    ),
    "bool": (kernel("const bool *x, float *y", "y[i] = x[i] ? 1.5f : 2.5f;"), ["?", "f4"]),
    "an atomic maximum by bits": (
        kernel("const float *x, int *y", "atomicMax(y, __float_as_int(x[i]));"), ["f4", "f4"]
    ),
    "compare and swap": (
        kernel(
            "double *x, float *y",
            "unsigned long long *a = (unsigned long long *)x, o = *a, e;"
            "do { e = o; o = atomicCAS(a, e, (unsigned long long)__double_as_longlong("
            "1.5 + __longlong_as_double(e))); } while (e != o); y[i] = 1.5f;",
        ),
        ["i8", "f4"],
    ),
    "int and unsigned": (kernel(INTEGERS, NEXT), ["u4", "u4"]),
    "bytes for words": (kernel(INTEGERS, NEXT), ["u1", "i1"]),
    "raw memory for words": (kernel(INTEGERS, NEXT), ["V8", "S4"]),
    "the bits of floats": (kernel("int *x, int *y", "y[i] = x[i] < 0 ? -x[i] : x[i];"), ["f4", "i4"]),
    "pairs of words": (
        kernel("const int2 *x, int2 *y", "y[i] = make_int2(x[i].y + 1, x[i].x);"), ["i8", "u8"]
    ),
    "vectors of words": (kernel("int *x, int *y", "((int4 *)y)[i] = ((int4 *)x)[i];"), ["i8", "i8"]),
    "words seen as longs": (
        kernel("int *x, int *y", "long long *l = (long long *)x; l[i] += 5; y[i] = 1;"), ["i8", "i4"]
    ),
    "words put together": (
        kernel("const unsigned *x, long long *y", "y[i] = ((long long)x[2*i+1] << 32) | x[2*i];"),
        ["i8", "i8"],
    ),
    "longs taken apart": (
        kernel("const long long *x, int *y", "y[2*i] = (int)x[i]; y[2*i+1] = (int)(x[i] >> 32);"),
        ["i4", "i4"],
    ),
    "longer numbers": (
        kernel("unsigned *x, unsigned *y", 'asm("add.cc.u32 %0, %0, %2;\\n addc.u32 %1, %1, %3;" :'
               ' "+r"(x[2*i]), "+r"(x[2*i+1]) : "r"(y[2*i]), "r"(y[2*i+1]));'),
        ["u8", "u8"],
    ),
    "a copy of longs by halves": (kernel(INTEGERS, "y[i] = x[i];"), ["i8", "u8"]),
    "a hash": (kernel("const unsigned *x, unsigned *y", "y[i] = (x[i] ^ x[i] >> 15) * 31;"), ["i8", "u4"]),
    "longs as bytes": (
        kernel("const unsigned char *x, unsigned char *y", "y[i] = x[i] + 1;"), ["i8", "i4"]
    ),
    "longs as chars": (kernel("const char *x, char *y", "y[i] = x[i] + 1;"), ["i8", "i4"]),
    "longs behind void": (
        kernel("const void *x, void *y", "((int *)y)[i] = ((const int *)x)[i] + 1;"), ["i8", "i8"]
    ),
    "a type of which two are declared": (
        kernel("const T *x, T *y", NEXT, "#if 1\ntypedef long long T;\n#else\ntypedef int T;\n#endif"),
        ["i4", "i4"],
    ),
    "pieces of shared memory": (kernel("const int *x, float *y", "extern __shared__ int s[]; y[i] = i;"),
                                ["i8", "f4"]),
    "zeros in longs": (kernel("int *x, int *y", "x[i] = 0; y[i] = 0;"), ["i8", "i4"]),
    "a choice of pointers": (
        kernel("const float *x, float *y, int *z", "const float *p = z ? x : (const float *)z;"
               " y[i] = p[i] * 2;"),
        ["f4", "f4", "i4"],
    ),
    "pointers in memory": (
        kernel("const int *x, float *y", "const void *p[2] = {x, y}; y[i] = 2 * ((float *)p[y[0] > 1])[i];"),
        ["i4", "f4"],
    ),
    "a pointer that is not used": (kernel("const float *x, float *y", "y[i] = 1.5f * i;"), ["i8", "f4"]),
    "a checksum of anything": (
        kernel("const unsigned *x, unsigned *y", "atomicAdd(y, x[i] * 2654435761u);"), ["f8", "u4"]
    ),
    "assembly": (
        kernel(
            "const W *x, float *y",
            'float f; asm("ld.global.f32 %0, [%1];" : "=f"(f) : "l"(x + i)); y[i] = f * 2;',
            "typedef int W;",
        ),
        ["i4", "f4"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("what", PASSED)
def test_what_may_be_meant_passes(virtual: VirtualDevice, what: str, arch: str) -> None:
    source, dtypes = PASSED[what]
    launch(virtual, source, dtypes, arch)


def test_ptx_alone_is_judged_by_what_no_cast_explains(virtual: VirtualDevice) -> None:
    ptx = compile_cuda(kernel(FLOATS, TWICE)).ptx
    loaded = virtual.load_ptx(ptx + "\n// no source")["k"]
    f4, f8, i4 = (virtual.zeros((64,), dtype) for dtype in ("f4", "f8", "i4"))
    loaded.launch(1, 8, (f4, f4))
    loaded.launch(1, 8, (i4, f4))
    with pytest.raises(LaunchError, match=r"argument 1 of 2 .*float64.*float32"):
        loaded.launch(1, 8, (f8, f4))


def test_a_gpu_is_asked_the_same(fake_cuda: CudaDevice) -> None:
    twice = fake_cuda.load_ptx(compile_cuda(kernel(FLOATS, TWICE)).ptx)["k"]
    f4, f8 = fake_cuda.zeros(64, "f4"), fake_cuda.zeros(64, "f8")
    twice.launch(1, 8, (f4, f4))
    with pytest.raises(LaunchError, match=r"argument 1 of 2 .*float64.*float32"):
        twice.launch(1, 8, (f8, f4))
    # What is taken from another library is judged, too.
    foreign = SimpleNamespace(__cuda_array_interface__=f8.__cuda_array_interface__)
    with pytest.raises(LaunchError, match=r"argument 2 of 2 .*float32"):
        twice.launch(1, 8, (f4, foreign))
    # And PTX that is not understood judges nothing.
    fake_cuda.load_ptx(PTX.replace("ret;", "unknown.instruction %x;"))["nothing"].launch(1, 1)


def test_a_view_says_that_the_bytes_are_meant(virtual: VirtualDevice) -> None:
    bits = virtual.upload(np.ones(8, np.float32).view(np.int32))
    out = virtual.zeros(8, np.float32)
    twice = virtual.compile(kernel(FLOATS, TWICE), name="k.cu")["k"]
    with pytest.raises(LaunchError, match=r"view\('float32'\)"):
        twice.launch(1, 8, (bits, out))
    twice.launch(1, 8, (bits.view("f4"), out))
    assert out.download().tolist() == [2] * 8


def test_a_copy_is_judged_by_both_its_arrays(virtual: VirtualDevice) -> None:
    copy = virtual.compile(kernel(FLOATS, "y[i] = x[i];"), name="k.cu")["k"]
    f4, i4, f8 = (virtual.zeros((64,), dtype) for dtype in ("f4", "i4", "f8"))
    for _ in range(2):
        for same in (f4, i4, f8):
            copy.launch(1, 8, (same, same))
        for x, y in ((f8, f4), (i4, f4), (f4, f8), (f8, i4)):
            with pytest.raises(LaunchError, match="float32"):
                copy.launch(1, 8, (x, y))


def test_each_launch_is_judged(virtual: VirtualDevice) -> None:
    twice = virtual.compile(kernel(FLOATS, TWICE), name="k.cu")["k"]
    f4, f8 = virtual.zeros((64,), "f4"), virtual.zeros((64,), "f8")
    for _ in range(2):
        twice.launch(1, 8, (f4, f4))
        with pytest.raises(LaunchError):
            twice.launch(1, 8, (f8, f4))
        with pytest.raises(LaunchError):
            twice.launch(1, 8, (f4, f8))


@pytest.mark.parametrize("arch", ARCHS)
def test_what_the_analysis_says(arch: str) -> None:
    source = r"""
    extern "C" __global__ void all(const float *twice, const float *copied, const int *index, float *out,
                                   double *d, long long stride, float *zeroed) {
        int i = threadIdx.x;
        out[i * stride] = 2 * twice[index[i]];
        out[i + 64] = copied[i];
        atomicAdd(d + stride, 1.5);
        zeroed[i] = 0;
    }
    """
    module = parse(compile_cuda(source, arch=arch).ptx)
    found = elements(inline(module, "all"))
    assert {name.removeprefix("all_param_"): element for name, element in found.items()} == {
        "0": Element(4, "float"),
        "1": Element(4, "copy"),
        "2": Element(4, "integer"),
        "3": Element(4, "float"),
        "4": Element(8, "float"),
    }
