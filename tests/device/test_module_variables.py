"""Two modules of one text: the code may be shared, the variables are each one's own."""

import gc

import numpy as np
import pytest

from nnkit.device.cuda import CudaDevice
from nnkit.device.virtual import VirtualDevice, VirtualModule
from nnkit.vm.analysis.geometry import Launch
from nnkit.vm.build.compile import Native
from nnkit.vm.build.native import native_code
from nnkit.vm.build.source import Source
from nnkit.vm.run import module as loading
from tests.support.fake_driver import PTX, FakeDriver

SOURCE = """
__device__ int total = 5;
__device__ int *where = &total;
extern "C" __global__ void add(int n) { *where += n; }
extern "C" __global__ void read(int *out) { out[0] = total; }
"""
POINTLESS = 'extern "C" __global__ void say(int *out) { out[0] = printf("no variable of anybody"); }'


def test_each_compilation_has_variables_of_its_own() -> None:
    device = VirtualDevice(threads=1)
    one, two = (device.compile(SOURCE, name="counts.cu") for _ in range(2))
    out = device.zeros((1,), np.int32)

    def total(module: VirtualModule) -> int:
        module["read"].launch(1, 1, (out,))
        return int(out.host[0])

    one["add"].launch(1, 1, (3,))
    # Two kernels of one module do share.
    assert (total(one), total(two)) == (8, 5)
    two["add"].launch(1, 1, (10,))
    assert (total(one), total(two)) == (8, 15)
    one.variables["total"].write(np.int32(1))
    assert (total(one), total(two), total(device.compile(SOURCE, name="counts.cu"))) == (1, 15, 5)


def test_the_code_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def counted(source: Source, kernel: str, launch: Launch) -> Native:
        made.append(kernel)
        return native_code(source, kernel, launch)

    monkeypatch.setattr(loading, "native_code", counted)
    device = VirtualDevice(threads=1)
    modules = [device.compile(SOURCE, name="counts.cu") for _ in range(3)]
    for module in modules:
        module["add"].launch(1, 1, (1,))
    assert made == ["add"]
    modules[0]["add"].launch(1, 32, (1,))
    assert made == ["add", "add"]


def test_a_module_that_is_gone_gives_its_memory_back() -> None:
    device = VirtualDevice(threads=1)

    def live() -> int:
        return len(device.machine.memory.snapshot().rows)

    always = device.zeros((1,), np.int32)
    before = live()
    module = device.compile(SOURCE, name="counts.cu")
    kernel, variable = module["add"], module.variables["total"]
    assert live() == before + 2
    del module
    gc.collect()
    # A kernel alone keeps its variables, and so does an array.
    kernel.launch(1, 1, (2,))
    assert variable.host == 7
    del kernel
    gc.collect()
    assert live() == before + 2
    del variable
    gc.collect()
    assert live() == before
    assert always.host == 0


def test_a_module_without_variables_is_loaded_once() -> None:
    device = VirtualDevice(threads=1)
    assert device.compile(POINTLESS, name="say.cu") is device.compile(POINTLESS, name="say.cu")


def test_on_a_gpu_too(fake_cuda: CudaDevice, fake_driver: FakeDriver) -> None:
    with_variable = PTX.replace(".target sm_90", ".target sm_90\n.visible .global .align 4 .u32 total = 5;")
    assert with_variable != PTX
    one, two = (fake_cuda.load_ptx(with_variable) for _ in range(2))
    assert one is not two
    assert one._handle != two._handle
    assert fake_cuda.load_ptx(PTX) is fake_cuda.load_ptx(PTX)
