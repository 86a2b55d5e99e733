"""What beginners get wrong, and what nnkit says: one line, with what to do, in the words of their source."""

from pathlib import Path

import numpy as np
import pytest

import nnkit
from nnkit.device.compile.advice import advice
from nnkit.device.virtual import VirtualDevice
from nnkit.errors import CompileError, DeviceMemoryError, LaunchError, NnkitError, UsageError
from nnkit.ptx.locations import file_name

KERNEL = "__global__ void k(int *x)\n{\n    x[threadIdx.x] = 1;\n}\n"


@pytest.fixture(scope="module")
def device() -> VirtualDevice:
    return VirtualDevice(threads=1)


def first_line(error: NnkitError) -> str:
    return str(error).splitlines()[0]


@pytest.mark.parametrize(
    ("body", "todo"),
    [
        ("std::cout << x[0];", "printf"),
        ("x[0] = rand();", "curand"),
        ("exit(1);", "__trap()"),
        ("x[0] = __shfl_down(x[1], 1);", "_sync"),
        ("std::vector<int> v(3);", "arrays"),
        ("k<<<1, 1>>>(x);", "launch both from Python"),
        ("half h;", "#include <cuda_fp16.h>"),
        ("long long *y = (long long *)x; atomicAdd(y, 1LL);", "unsigned long long"),
    ],
)
def test_what_is_no_device_code_is_told_with_what_to_do(device: VirtualDevice, body: str, todo: str) -> None:
    source = f"#include <iostream>\n#include <vector>\n__global__ void k(int *x)\n{{\n    {body}\n}}\n"
    with pytest.raises(CompileError) as caught:
        device.compile(source, name="day.cu")
    said = first_line(caught.value)
    assert said.startswith("day.cu:5: error: ")
    assert todo in said.partition(" error: ")[2]


def test_a_type_that_is_not_known_is_told_before_what_comes_of_it(device: VirtualDevice) -> None:
    with pytest.raises(CompileError) as caught:
        device.compile("__global__ void k(half *x) { x[0] = x[1]; }\n", name="day.cu")
    assert '"half" is undefined: #include <cuda_fp16.h>' in first_line(caught.value)


def test_an_ordinary_error_gets_no_advice(device: VirtualDevice) -> None:
    with pytest.raises(CompileError) as caught:
        device.compile("__global__ void k(int *x) { x[0] = threadldx.x; }\n", name="day.cu")
    assert first_line(caught.value) == 'day.cu:1: error: identifier "threadldx" is undefined'
    assert not advice('identifier "halfway" is undefined')


@pytest.mark.parametrize("text", ["", "  ", ";", "__device__ int x;", "#define A", "void __device__ f() {}"])
def test_text_of_one_line_that_is_a_program_is_taken(device: VirtualDevice, text: str) -> None:
    assert device.compile(text).kernels == ()


def test_a_file_of_any_name_is_read_as_a_path(device: VirtualDevice, tmp_path: Path) -> None:
    (tmp_path / "k.cpp").write_text(KERNEL)
    assert device.compile(tmp_path / "k.cpp").kernels == ("k(int*)",)


@pytest.mark.parametrize(
    "name", ["größe 世界.cu", 'a"b\\c.cu', "plain name.cu", "back\\303slash.cu", "it's (1).cu"]
)
@pytest.mark.parametrize("absolute", [False, True])
def test_a_path_is_shown_as_it_was_given(
    device: VirtualDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, absolute: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(KERNEL)
    shown = str(tmp_path / name) if absolute else name
    kernel = device.compile(shown)["k"]
    with pytest.raises(DeviceMemoryError) as caught:
        kernel.launch(1, 5, (device.zeros(4, np.int32),))
    assert f"kernel k(int*) at {shown}:3, block" in str(caught.value)
    assert "x[threadIdx.x] = 1;" in caught.value.__notes__[0]


def test_names_in_ptx_are_read_as_they_were_written() -> None:
    assert file_name(r"/tmp/gr\303\266\303\237e \344\270\226.cu") == "/tmp/größe 世.cu"
    assert file_name(r"a\"b\\c.cu") == 'a"b\\c.cu'
    assert file_name("plain/é.cu") == "plain/é.cu"
    assert file_name(r"bad \303.cu") == "bad \ufffd.cu"


def test_numbers_of_another_width_are_told_how_to_write_them(device: VirtualDevice) -> None:
    kernel = device.compile("__global__ void k(int n, float f, char c, int *x) {}\n")["k"]
    x = device.zeros(4, np.int32)
    kernel.launch(1, 1, (3, 2.0, 1, x))
    for args, said in [
        (
            (np.int64(3), 2.0, 1, x),
            r"argument 1 of 4 \(a 32-bit integer\): got np.int64\(3\), which has 64 bits",
        ),
        ((3, np.float64(2), 1, x), r"which has 64 bits: write float\(\.\.\.\) or np\.float32"),
        ((3, 2.0, 300, x), r"\(an 8-bit integer\): got 300"),
        ((3, 2.0, 1, [1, 2]), r"got \[1, 2\], which is no array: make one with np\.array"),
    ]:
        with pytest.raises(LaunchError, match=said):
            kernel.launch(1, 1, args)


def test_a_tuple_for_a_struct_is_not_called_an_array(device: VirtualDevice) -> None:
    kernel = device.compile("__global__ void k(float3 s) {}\n")["k"]
    with pytest.raises(LaunchError) as caught:
        kernel.launch(1, 1, ((1.0, 2.0, 3.0),))
    assert "np.array(" not in str(caught.value)


def test_a_grid_may_be_an_array_of_numpy(device: VirtualDevice) -> None:
    kernel = device.compile("__global__ void k(int *x) { atomicAdd(x, 1); }\n")["k"]
    x = device.zeros(1, np.int32)
    kernel.launch(np.array([2, 3]), np.array([5]), (x,))
    assert x[0] == 30
    for wrong in (np.array([2.5]), np.array([[1]]), np.array([1, 1, 1, 1])):
        with pytest.raises(LaunchError, match="whole numbers"):
            kernel.launch(wrong, 1, (x,))


def test_a_function_without_its_body(device: VirtualDevice) -> None:
    source = "extern __device__ int other(int);\n__global__ void k(int *x)\n{\n    x[0] = other(2);\n}\n"
    with pytest.raises(CompileError, match=r"a\.cu:4.*function other\(int\) is declared alone"):
        device.compile(source, name="a.cu")["k"]


def test_a_kernel_of_other_parameters_is_named_as_it_was_asked_for(device: VirtualDevice) -> None:
    with pytest.raises(UsageError, match=r"there is no kernel 'k\(float\*\)'"):
        device.compile(KERNEL)["k(float*)"]


def test_variables_are_written_not_replaced(device: VirtualDevice) -> None:
    variables = device.compile("__constant__ float c[3];\n" + KERNEL).variables
    with pytest.raises(UsageError, match=r"variables\['c'\]\.write\(values\)"):
        variables["c"] = [1, 2, 3]
    variables["c"].write([1, 2, 3])
    assert variables["c"][:].tolist() == [1, 2, 3]


@pytest.mark.parametrize("name", ["gpu", "GPU:0", "nvidia"])
def test_a_gpu_is_called_cuda(name: str) -> None:
    with pytest.raises(UsageError, match="a GPU is 'cuda'"):
        nnkit.open_device(name)


@pytest.mark.parametrize(
    ("declared", "used"), [("int N = 10;", "x[0] = N;"), ("float table[4] = {1, 2};", "x[0] = table[1];")]
)
def test_a_variable_of_the_host_is_named(device: VirtualDevice, declared: str, used: str) -> None:
    source = f"{declared}\n__global__ void k(int *x) {{ {used} }}\n"
    with pytest.raises(CompileError, match=r"is host code \(h\.cu:1\).*mark it __device__ or __constant__"):
        device.compile(source, name="h.cu")
    # With the mark it is taken.
    assert device.compile("__device__ " + source, name="h.cu").kernels == ("k(int*)",)
