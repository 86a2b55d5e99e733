"""A module's `__constant__`, `__device__` and `__managed__` variables as arrays of its device."""

import ctypes
import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from nnkit.contracts import Array, Device
from nnkit.device.compile import compile_cuda
from nnkit.device.cuda import CudaDevice
from nnkit.device.kernels.variables import VariableTable
from nnkit.device.names.demangle import is_reserved, readable_name
from nnkit.device.names.kernels import variables
from nnkit.device.names.types import TypeNames
from nnkit.device.virtual import VirtualDevice
from nnkit.errors import DeviceError, DeviceMemoryError, UsageError
from nnkit.ptx.interface import Interface
from nnkit.ptx.parse import parse
from tests.support.fake_driver import FakeDriver, one_line

SOURCE = r"""
#define ROWS 3
typedef float real;
struct Pair { float a; int b; };
__constant__ float coefficients[5] = {1, 2, 3};
__constant__ float scale;
__device__ double table[ROWS][4];
__device__ int counter; // not: __device__ double counter;
__device__ unsigned long long total = 7, other;
static __device__ short shorts[2][3];
__device__ Pair pairs[4];
__device__ real reals[6];
__device__ __align__(16) float aligned[4];
__device__ const float4 *pointer;
__managed__ int managed = 5;
__managed__ float lots[8];
__device__ float3 vectors[2];
__device__ volatile bool ready;
__device__ const char *text = "__device__ float text[3];";
namespace ns { __device__ int inner; __device__ int scale; }
template <typename T> __device__ T made;
extern "C" __global__ void use(float *out) {
    int i = threadIdx.x;
    made<float> += ns::scale + pairs[i & 3].b;
    if (pointer) out[8] = pointer->x;
    if (i < 5) out[i] = coefficients[i] * scale + counter + lots[i] + managed + reals[i] + aligned[i & 3];
    table[i % 3][i % 4] = i;
    shorts[1][i % 3] = i;
    vectors[1].z = text[0];
    if (i == 0) { ready = true; ns::inner = 42; total += other; }
}
"""
LAYOUT = {
    "coefficients": ((5,), "f4"),
    "scale": ((), "f4"),
    "table": ((3, 4), "f8"),
    "counter": ((), "i4"),
    "total": ((), "u8"),
    "other": ((), "u8"),
    "shorts": ((2, 3), "i2"),
    "pairs": ((32,), "u1"),
    "reals": ((6,), "f4"),
    "aligned": ((4,), "f4"),
    "pointer": ((), "u8"),
    "managed": ((), "i4"),
    "lots": ((8,), "f4"),
    "vectors": ((2, 3), "f4"),
    "ready": ((), "?"),
    "text": ((), "u8"),
    "ns::inner": ((), "i4"),
    "ns::scale": ((), "i4"),
    "made<float>": ((), "f4"),
}


@pytest.fixture
def virtual() -> Iterator[VirtualDevice]:
    """A device of its own."""
    device = VirtualDevice()
    yield device
    device.close()


def test_names_shapes_and_types(virtual: VirtualDevice) -> None:
    variables = virtual.compile(SOURCE, name="variables.cu").variables
    assert sorted(variables) == sorted(LAYOUT)
    assert len(variables) == len(LAYOUT)
    for name, (shape, dtype) in LAYOUT.items():
        assert (variables[name].shape, variables[name].dtype) == (shape, np.dtype(dtype)), name
        assert name in variables
    assert "nonsense" not in variables
    assert not variables.__contains__(3)
    assert variables.get("nonsense") is None
    assert variables["inner"].address == variables["ns::inner"].address == variables["ns :: inner"].address
    assert variables["::scale"].address != variables["ns::scale"].address
    assert "coefficients" in repr(variables)


@pytest.mark.parametrize("arch", ["compute_75", "compute_90", "compute_120"])
def test_initial_values_and_reading(virtual: VirtualDevice, arch: str) -> None:
    variables = virtual.compile(SOURCE, name="variables.cu", arch=arch).variables
    assert variables["coefficients"].download().tolist() == [1, 2, 3, 0, 0]
    assert variables["managed"].download() == 5
    assert variables["total"].download() == 7
    assert not variables["table"].download().any()


def test_what_is_written_is_what_the_kernel_reads(virtual: VirtualDevice) -> None:
    module = virtual.compile(SOURCE, name="variables.cu")
    variables = module.variables
    coefficients = np.array([5, 4, 3, 2, 1], np.float32)
    variables["coefficients"].write(coefficients)
    variables["scale"].write(2.0)
    variables["counter"].write(np.int32(100))
    variables["lots"].write([1000.0] * 8)
    variables["reals"].view(np.float32).write(np.full(6, 10000, np.float32))
    variables["aligned"].rows(1, 2).write([0.5])
    out = virtual.zeros(9, np.float32)
    module["use"].launch(1, 12, (out,))
    expected = coefficients * 2 + 100 + 1000 + 5 + 10000
    expected[1] += 0.5
    np.testing.assert_array_equal(out.download()[:5], expected)
    np.testing.assert_array_equal(variables["table"].download(), [[0, 9, 6, 3], [4, 1, 10, 7], [8, 5, 2, 11]])
    assert variables["ns::inner"][()] == 42
    assert bool(variables["ready"])
    # A pointer's value is an address of the device.
    x = virtual.upload(np.array([[7, 8, 9, 10]], np.float32))
    variables["pointer"].write(np.uint64(x.address))
    module["use"].launch(1, 1, (out,))
    assert out[8] == 7


def test_a_variable_keeps_its_module(virtual: VirtualDevice) -> None:
    array = virtual.compile(SOURCE, name="variables.cu").variables["coefficients"]
    gc.collect()
    array.write(np.arange(5, dtype=np.float32))
    assert array.download().tolist() == [0, 1, 2, 3, 4]
    seen = np.from_dlpack(array)
    del array
    gc.collect()
    assert seen.tolist() == [0, 1, 2, 3, 4]


def test_a_variable_is_an_argument_too(virtual: VirtualDevice) -> None:
    source = """
    __device__ int counts[4];
    __constant__ int fixed[4];
    extern "C" __global__ void fill(int n, int *x) { if (threadIdx.x < n) x[threadIdx.x] = threadIdx.x + 1; }
    extern "C" __global__ void sum(int *x) { x[0] = counts[0] + counts[3] + fixed[1]; }
    """
    module = virtual.compile(source, name="counts.cu")
    counts = module.variables["counts"]
    module["fill"].launch(1, 32, (4, counts))
    assert counts.download().tolist() == [1, 2, 3, 4]
    with pytest.raises(DeviceMemoryError, match="global variable counts"):
        module["fill"].launch(1, 32, (5, counts))
    with pytest.raises(DeviceMemoryError, match="constant"):
        module["fill"].launch(1, 32, (1, module.variables["fixed"]))


def test_names_that_are_not_there(virtual: VirtualDevice) -> None:
    variables = virtual.compile(SOURCE, name="variables.cu").variables
    one_line(UsageError, lambda: variables["coeficients"], "Did you mean 'coefficients'?", "table")
    one_line(UsageError, lambda: variables[3], "variable")  # type: ignore[index]
    none = virtual.compile('extern "C" __global__ void f() {}').variables
    assert (len(none), list(none)) == (0, [])
    one_line(UsageError, lambda: none["x"], "known: none")
    two = virtual.compile(
        "namespace a { __device__ int x; } namespace b { __device__ int x; }\n"
        'extern "C" __global__ void f(int *y) { y[0] = a::x + b::x; }',
    ).variables
    one_line(UsageError, lambda: two["x"], "2 variables", "'a::x'", "'b::x'")
    assert sorted(two) == ["a::x", "b::x"]


def test_values_that_do_not_fit(virtual: VirtualDevice) -> None:
    variables = virtual.compile(SOURCE, name="variables.cu").variables
    one_line(UsageError, lambda: variables["coefficients"].write([1.0] * 6), "(6,)", "(5,)")
    one_line(UsageError, lambda: variables["coefficients"].write(np.zeros(5)), "float64", "float32")
    one_line(UsageError, lambda: variables["counter"].write(1.5), "int32")
    one_line(UsageError, lambda: variables["counter"].write(1 << 40), "int32")


WRITTEN = """
.version 8.0
.target sm_90
.address_size 64
.visible .global .align 4 .f32 floats[6];
.const .u32 one = 3;
.global .s16 shorts[2] = {1, -2};
.global .attribute(.managed) .align 8 .b64 wide;
.visible .global .align 4 .b8 bytes[8];
.global .f64 x = 0d3FF8000000000000, y;
.visible .entry k() { ret; }
"""


def test_ptx_alone(virtual: VirtualDevice) -> None:
    variables = virtual.load_ptx(WRITTEN).variables
    found = {name: (array.shape, array.dtype.str[1:]) for name, array in variables.items()}
    assert found == {
        "floats": ((6,), "f4"),
        "one": ((), "u4"),
        "shorts": ((2,), "i2"),
        "wide": ((), "u8"),
        "bytes": ((8,), "u1"),
        "x": ((), "f8"),
        "y": ((), "f8"),
    }
    assert (variables["one"][()], variables["shorts"].download().tolist()) == (3, [1, -2])
    assert variables["x"][()] == 1.5


# A declaration that says another type than the variable has is not believed.
DECLARATIONS = [
    ("__device__ double x[3];", 20, 8, ((20,), "u1")),
    ("__device__ double x[3];", 24, 4, ((24,), "u1")),
    ("__device__ float x[3];", 16, 4, ((16,), "u1")),
    ("__device__ float x[N];", 16, 4, ((4,), "f4")),
    ("__device__ float x[] = {1, 2};", 8, 4, ((2,), "f4")),
    ("__device__ float x[N][2];", 16, 4, ((2, 2), "f4")),
    ("__device__ float x[N][M];", 16, 4, ((4,), "f4")),
    ("__device__ float x[N][3];", 16, 4, ((16,), "u1")),
    ("#if A\n__device__ float x[4];\n#else\n__device__ int x[4];\n#endif", 16, 4, ((16,), "u1")),
    ("// __device__ float x[4];\n__device__ int x[4];", 16, 4, ((4,), "i4")),
    ("__device__ float f(float x) { return x; }", 16, 4, ((16,), "u1")),
    ("__device__ unsigned long long int x[2];", 16, 8, ((2,), "u8")),
    ("__constant__ const static unsigned char x[0x10];", 16, 1, ((16,), "u1")),
    ("__device__ float const x[4];", 16, 4, ((4,), "f4")),
    ("__device__ std::uint16_t x[8];", 16, 2, ((8,), "u2")),
    ("__device__ double2 x;", 16, 16, ((2,), "f8")),
    ("__device__ Unknown x[4];", 16, 4, ((16,), "u1")),
    # Several in one declaration, and what initial values may hold.
    ("__device__ float a[3], x[4];", 16, 4, ((4,), "f4")),
    ("__device__ float x[4], b[2];", 16, 4, ((4,), "f4")),
    ("__device__ float a[2] = {1, 2}, x[4] = {f(1, 2), 3}, c;", 16, 4, ((4,), "f4")),
    ("__device__ float *a, x[4];", 16, 4, ((4,), "f4")),
    ("__device__ float a[4], *x[2];", 16, 8, ((16,), "u1")),
    ("__device__ float a, x[2][2] = {{1, 2}, {3, 4}};", 16, 4, ((2, 2), "f4")),
    ("__device__ int f(int x) { return 1; }\n__device__ float x[4];", 16, 4, ((4,), "f4")),
    ("float __device__ x[4];", 16, 4, ((4,), "f4")),
    ("static const float __constant__ x[4] = {};", 16, 4, ((4,), "f4")),
    # Lengths that have names.
    ("#define R 2\n#define C 4\n__device__ int x[R][C];", 32, 4, ((2, 4), "i4")),
    ("#define R 2\n#define C (R * 2)\n__device__ int x[R][C];", 32, 4, ((2, 4), "i4")),
    ("constexpr int R = 2, S = 1; const int C{4u};\n__device__ int x[R][C];", 32, 4, ((2, 4), "i4")),
    ("enum { R = 2, S, C };\n__device__ int x[R][C];", 32, 4, ((2, 4), "i4")),
    ("#define R 8 / 4\n__device__ int x[R][010 / 2];", 32, 4, ((2, 4), "i4")),
    ("#if A\n#define R 2\n#else\n#define R 4\n#endif\n__device__ int x[R][2];", 32, 4, ((4, 2), "i4")),
    ("#if A\n#define R 2\n#else\n#define R 4\n#endif\n__device__ int x[R][C];", 32, 4, ((8,), "i4")),
    ("#define R 3\n__device__ int x[R][C];", 32, 4, ((32,), "u1")),
    ("#define R R\n__device__ int x[R][R];", 16, 4, ((4,), "i4")),
    # Types that have names.
    ("typedef float real;\n__device__ real x[4];", 16, 4, ((4,), "f4")),
    ("using real = double;\n__device__ real x[2];", 16, 8, ((2,), "f8")),
    ("#define REAL float\n__device__ REAL x[4];", 16, 4, ((4,), "f4")),
    ("typedef unsigned long long int u64; typedef u64 word;\n__device__ word x[2];", 16, 8, ((2,), "u8")),
    ("using point = float2;\n__device__ point x[2];", 16, 8, ((2, 2), "f4")),
    (
        "#if A\ntypedef float real;\n#else\ntypedef double real;\n#endif\n__device__ real x[2];",
        16,
        8,
        ((2,), "f8"),
    ),
    (
        "#if A\ntypedef float real;\n#else\ntypedef double real;\n#endif\n__device__ real x[N];",
        16,
        8,
        ((16,), "u1"),
    ),
    ("typedef float row[4];\n__device__ row x[1];", 16, 4, ((16,), "u1")),
    ("typedef a b; typedef b a;\n__device__ a x[4];", 16, 4, ((16,), "u1")),
    ("// typedef float real;\n__device__ real x[4];", 16, 4, ((16,), "u1")),
    ("int x[4];", 16, 4, ((16,), "u1")),
]


@pytest.mark.parametrize(("text", "size", "align", "layout"), DECLARATIONS)
def test_declarations(text: str, size: int, align: int, layout: Any) -> None:
    ptx = f".version 8.0\n.target sm_90\n.address_size 64\n.global .align {align} .b8 x[{size}];\n"
    table = VariableTable(parse(ptx).variables.values(), TypeNames(text))
    shape, dtype = table.layout(table.find("x"))
    assert (shape, dtype) == (layout[0], np.dtype(layout[1]))


@pytest.mark.parametrize(
    ("mangled", "words"),
    [
        ("plain", "plain"),
        ("_ZN2ns6insideE", "ns::inside"),
        ("_Z2tvIfE", "tv<float>"),
        ("_ZN1SIfE5tableE", "S<float>::table"),
        ("_ZL6static", "static"),
        ("_Znonsense", "_Znonsense"),
    ],
)
def test_readable_names(mangled: str, words: str) -> None:
    assert readable_name(mangled) == words


@pytest.mark.parametrize(
    ("name", "reserved"),
    [
        ("__cudart_i2opi_d", True),
        ("_ZN4cuda3std3__45valueE", True),
        ("_ZN4cuda3std3__41SIiE5valueE", True),
        ("_ZN2ns5a1__bE", False),
        ("a1__b", False),
        ("_ZL6static", False),
        ("plain", False),
    ],
)
def test_reserved_names(name: str, reserved: bool) -> None:
    assert is_reserved(name) is reserved
    ptx = f".version 8.0\n.target sm_90\n.address_size 64\n.global .align 4 .u32 {name} = 5;\n"
    assert bool(variables(Interface(ptx))) is not reserved


def test_variables_of_headers_are_there_but_not_listed(virtual: VirtualDevice) -> None:
    module = virtual.compile(
        "namespace cuda { namespace __4 { __constant__ int value = 5; } }\n"
        "__device__ int own; __device__ int my__own;\n"
        "__global__ void k(int *x) { *x = cuda::__4::value + own + my__own; }"
    )
    assert list(module.variables) == ["own", "my__own"]
    assert len(module.variables) == 2
    assert repr(module).endswith("variables own, my__own>")
    assert module.variables["cuda::__4::value"][()] == 5
    with pytest.raises(UsageError, match=r"known: my__own, own\."):
        module.variables["other"]


def test_a_template_of_a_gpu_may_use_constants_of_headers(
    fake_cuda: CudaDevice, fake_driver: FakeDriver
) -> None:
    """It is compiled apart, with variables of its own: that matters for those that somebody writes."""
    source = "namespace cuda { namespace __4 { __constant__ int value = 5; } }\n"
    template = "template <int N> __global__ void k(int *x) { *x = cuda::__4::value + N; }\n"
    use = "__global__ void use(int *x) { *x = cuda::__4::value; }\n"
    fake_cuda.compile(source + template + use)["k<3>"]
    with pytest.raises(UsageError, match="would not see the module's variables"):
        fake_cuda.compile(
            source.replace("__4", "four") + template.replace("__4", "four") + use.replace("__4", "four")
        )["k<3>"]


def test_variables_of_a_gpu(fake_cuda: CudaDevice, fake_driver: FakeDriver) -> None:
    fake_driver.variables = {
        "floats": ctypes.create_string_buffer(24),
        "one": ctypes.create_string_buffer(4),
        "bytes": ctypes.create_string_buffer(9),
    }
    module = fake_cuda.load_ptx(WRITTEN)
    assert sorted(module.variables) == ["bytes", "floats", "one", "shorts", "wide", "x", "y"]
    floats = module.variables["floats"]
    assert (floats.shape, floats.dtype) == ((6,), np.dtype("f4"))
    floats.write(np.arange(6, dtype=np.float32))
    assert np.frombuffer(fake_driver.variables["floats"], np.float32).tolist() == [0, 1, 2, 3, 4, 5]
    assert floats[2:].tolist() == [2, 3, 4, 5]
    assert floats.__dlpack_device__() == (2, 0)
    one_line(DeviceError, lambda: module.variables["bytes"], "9 bytes, not 8")
    one_line(UsageError, lambda: module.variables["bites"], "Did you mean 'bytes'?")
    fake_driver.failures["cuModuleGetGlobal"] = [500]
    one_line(DeviceError, lambda: module.variables["one"], "looking up variable one", "CUDA_ERROR_NOT_FOUND")


@pytest.mark.cuda
def test_variables_on_every_device(kernel_device: Device[Array]) -> None:
    module = kernel_device.compile(SOURCE, name="variables.cu")
    variables = module.variables
    variables["coefficients"].write([5.0, 4.0, 3.0, 2.0, 1.0])
    variables["scale"].write(2.0)
    variables["counter"].write(100)
    out = kernel_device.zeros(9, np.float32)
    module["use"].launch(1, 12, (out,))
    assert out.download()[:5].tolist() == [115, 113, 111, 109, 107]
    assert variables["ns::inner"].download() == 42
    assert variables["shorts"].download()[1].tolist() in ([9, 10, 11], variables["shorts"][1].tolist())


def test_what_nvrtc_writes_for_arrays_is_known() -> None:
    # If a newer NVRTC tells the type of arrays, the source need not be asked.
    assert ".const .align 4 .b8 coefficients[20]" in compile_cuda(SOURCE, name="variables.cu").ptx


def test_reprs_say_what_things_are(virtual: VirtualDevice, fake_cuda: CudaDevice) -> None:
    module = virtual.compile(SOURCE, name="variables.cu")
    assert "kernels use" in repr(module)
    assert "variables coefficients, scale" in repr(module)
    assert "use(" in repr(module["use"])
    assert "pointer" in repr(module["use"])
    for thing, word in ((virtual, "threads"), (fake_cuda, "cuda:0"), (fake_cuda.load_ptx(WRITTEN), "floats")):
        assert word in repr(thing)
    assert repr(fake_cuda.load_ptx(WRITTEN)["k"]) == "<kernel k() on cuda:0>"
