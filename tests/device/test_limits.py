"""What no GPU has room for, and blocks that a kernel was not compiled for, are refused; what fits is not."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest

from nnkit.device.cuda import CudaDevice
from nnkit.device.kernels.parameters import required_blocks, thread_limits
from nnkit.device.virtual import VirtualDevice
from nnkit.errors import CompileError, LaunchError, NnkitError
from nnkit.ptx.interface import Interface
from tests.support.fake_driver import FakeDriver, one_line


@pytest.fixture(scope="module")
def device() -> Iterator[VirtualDevice]:
    device = VirtualDevice(threads=1)
    yield device
    device.close()


def shared(name: str, declaration: str) -> str:
    return f"""
extern "C" __global__ void {name}(int* out) {{
    {declaration}
    int t = threadIdx.x; s[t] = t; __syncthreads(); out[t] = s[63 - t];
}}"""


def run(device: VirtualDevice, source: str, name: str = "f", shared_bytes: int = 0) -> None:
    out = device.zeros((64,), np.int32)
    device.compile(source, name="limits.cu")[name].launch(1, 64, (out,), shared_bytes)
    assert out.host.tolist() == list(range(63, -1, -1))


@pytest.mark.parametrize("words", [12289, 20_000, 75_000])
def test_static_shared_memory_has_a_limit(device: VirtualDevice, words: int) -> None:
    found = one_line(
        CompileError,
        lambda: run(device, shared("f", f"__shared__ int s[{words}];")),
        f"{4 * words} bytes of static shared memory",
    )
    assert "kernel f" in found
    assert "limits.cu:" in found


def test_all_of_the_static_and_of_the_dynamic_shared_memory(device: VirtualDevice) -> None:
    run(device, shared("f", "__shared__ int s[12288];"))
    run(device, shared("f", "extern __shared__ int s[];"), shared_bytes=227 * 1024)
    both = shared("f", "extern __shared__ int s[]; __shared__ int own[8192]; own[63 - threadIdx.x] = 1;")
    both = both.replace("out[t] = s[63 - t]", "out[t] = s[63 - t] + own[t] - 1")
    run(device, both, shared_bytes=195 * 1024)
    one_line(LaunchError, lambda: run(device, both, shared_bytes=195 * 1024 + 1), "0 to 199680")


def test_each_kernel_has_shared_memory_of_its_own(device: VirtualDevice) -> None:
    """Two kernels and a function that is not put in: what one of them uses is not counted for the other."""
    source = """
    __shared__ int first[10000], second[10000];
    __device__ __noinline__ int* of(int* s) { return s; }
    """
    source += shared("f", "int* s = of(first);") + shared("g", "int* s = of(second);")
    run(device, source, "f")
    run(device, source, "g")
    source += shared("h", "int* s = of(first); if (out[0] == 7) s = of(second);")
    one_line(CompileError, lambda: run(device, source, "h"), "80000 bytes")


def local(words: int) -> str:
    return f"""
extern "C" __global__ void f(int* out) {{
    int s[{words}];
    #pragma unroll 1
    for (int i = 0; i < {words}; i += 999) s[i] = out[i % 64];
    out[threadIdx.x] = 63 - threadIdx.x + s[out[0] * 999];
}}"""


def test_local_memory_has_a_limit(device: VirtualDevice) -> None:
    run(device, local(131_000))
    one_line(CompileError, lambda: run(device, local(140_000)), "560000 bytes of local memory a thread")


def test_a_function_called_twice_has_its_variables_once(device: VirtualDevice) -> None:
    source = """
    __device__ __noinline__ int fill(int* out) {
        int s[80000];
        #pragma unroll 1
        for (int i = 0; i < 80000; i += 999) s[i] = out[i % 64];
        return s[out[0] * 999];
    }
    extern "C" __global__ void f(int* out) {
        int a = fill(out), b = fill(out + a);
        out[threadIdx.x] = 63 - threadIdx.x + a + b;
    }"""
    run(device, source)


HEAD = ".version 8.0\n.target sm_90\n.address_size 64\n"


def entry(directives: str) -> str:
    return (
        f"{HEAD}.visible .entry k(.param .u64 p)\n{directives}\n{{ .reg .b64 %rd1; .reg .b32 %r1; "
        "ld.param.u64 %rd1, [p]; mov.u32 %r1, %ntid.x; st.global.u32 [%rd1], %r1; ret; }\n"
    )


REQUIRED = [
    (".reqntid 8, 1, 1", [8, (8, 1), (8, 1, 1)], [4, 16, (4, 2), (1, 8), (8, 1, 2)]),
    (".reqntid 8", [8], [7, (1, 1, 8)]),
    (".reqntid 4, 2", [(4, 2)], [8, (2, 4), (4, 1, 2)]),
    (".reqntid 0x10, 2, 2", [(16, 2, 2)], [64, (16, 2)]),
    (".maxntid 8, 4, 2", [64, (1, 1, 64), (4, 4, 4), 1], [65, (8, 8, 2), (65, 1)]),
    (".maxntid 64\n.minnctapersm 2", [64, (8, 8)], [65, (8, 9)]),
    (".maxntid 64\n.minnctapersm 2\n.maxnreg 32", [64, 33], [1024]),
]


@pytest.mark.parametrize(("directives", "right", "wrong"), REQUIRED)
def test_blocks_that_a_kernel_was_compiled_for(
    device: VirtualDevice, directives: str, right: list[int], wrong: list[int]
) -> None:
    kernel = device.load_ptx(entry(directives))["k"]
    out = device.zeros((1,), np.int32)
    for block in right:
        kernel.launch(1, block, (out,))
    for block in wrong:
        one_line(LaunchError, partial(kernel.launch, 1, block, (out,)), "kernel k: block")


def test_launch_bounds_in_the_source(device: VirtualDevice) -> None:
    source = """
    extern "C" __global__ void __launch_bounds__(96, 2) bounded(int* out) { out[threadIdx.x] = 1; }
    extern "C" __global__ void unbounded(int* out) { out[threadIdx.x] = 1; }"""
    module, out = device.compile(source), device.zeros((1024,), np.int32)
    module["bounded"].launch(1, 96, (out,))
    module["unbounded"].launch(1, 1024, (out,))
    one_line(LaunchError, lambda: module["bounded"].launch(1, 97, (out,)), "the most for this kernel is 96")


def test_a_gpu_is_asked_for_the_required_block_alone(fake_cuda: CudaDevice, fake_driver: FakeDriver) -> None:
    kernel = fake_cuda.load_ptx(entry(".reqntid 8, 1, 1"))["k"]
    with pytest.raises(NnkitError) as caught:
        kernel.launch(1, 4, (fake_cuda.zeros((1,), "i4"),))
    assert "compiled for (8, 1, 1) alone" in str(caught.value)


def test_what_the_text_says() -> None:
    text = HEAD + ".entry a .maxntid 8, 0x8 { ret; }\n.entry b() .reqntid 4, 2 .maxnreg 9 { ret; }"
    assert thread_limits(Interface(text)) == {"a": 64, "b": 8}
    assert required_blocks(Interface(text)) == {"b": (4, 2, 1)}


def constants(words: int, more: str = "") -> str:
    return f"""
__constant__ int table[{words}]; {more}
extern "C" __global__ void f(int* out) {{
    out[threadIdx.x] = 63 - threadIdx.x + table[out[0] + {words - 1}];
}}
extern "C" __global__ void g(int* out) {{ out[threadIdx.x] = 63 - threadIdx.x; }}"""


def test_constant_memory_has_a_limit(device: VirtualDevice) -> None:
    run(device, constants(16384))
    one_line(CompileError, lambda: run(device, constants(16385)), "65540 bytes of constant memory")
    # ptxas counts a module's together, whatever a kernel uses.
    two = constants(10_000, "__constant__ char second[30000];")
    one_line(CompileError, lambda: run(device, two, "g"), "70000 bytes of constant memory")
    run(device, two.replace("__constant__ char", "__device__ char"), "g")
