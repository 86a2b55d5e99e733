"""Nonsense at every door of the Python API: one line of nnkit's, or a right result; never anything else."""

import ctypes
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nnkit
from nnkit.comm.single import SingleTransport
from nnkit.contracts import Task
from nnkit.device import open_device
from nnkit.device.compile import compile_cuda
from nnkit.device.cuda import CudaDevice
from nnkit.errors import NnkitError, UsageError
from tests.support.devices import AnyDevice
from tests.support.fake_driver import one_line

KERNEL = r"""
__device__ float shift[2];
extern "C" __global__ void k(int n, float a, const float *x, float *y) { y[0] = n * a * x[0] + shift[0]; }
"""
PTX = """
.version 8.0
.target sm_90
.address_size 64
.visible .global .align 4 .f32 shift[2];
.visible .entry k(.param .u32 n, .param .f32 a, .param .u64 x, .param .u64 y) { ret; }
"""


class Rude:
    """An object that fails whatever it is asked."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"do not ask for {name}")

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class Liar:
    """An object that has everything, and nothing is what it should be."""

    shape = dtype = address = device = host = "nonsense"
    __array_interface__ = __cuda_array_interface__ = "nonsense"

    def __dlpack_device__(self) -> str:
        return "nonsense"

    def __dlpack__(self, **wishes: Any) -> str:
        return "nonsense"

    def __index__(self) -> Any:
        raise ValueError("no index")

    def __len__(self) -> int:
        raise ValueError("no length")

    def __fspath__(self) -> Any:
        return 5


class Endless:
    """What is nested in itself."""

    def __iter__(self) -> Iterator[Any]:
        return iter([self])


SELF: list[Any] = []
SELF.append(SELF)
# No number between: a grid or an array of 2^31 is not nonsense.
NUMBERS = [-(2**200), -1, 0, 1, 3, 2**62, 2**64, 10**400, -0.0, 1.5, float("nan"), float("inf"), 1j, True]
TEXTS = [
    "",
    "k",
    "x",
    "foo",
    "f4",
    "\0",
    "\udc80",
    "a\nb",
    "k<",
    "float*(",
    "::",
    "-DX=1",
    "sm_90",
    "é",
    "../x.cu",
]
OTHERS: list[Any] = [
    None,
    ...,
    NotImplemented,
    b"",
    b"\xff\0",
    bytearray(3),
    memoryview(b"abc"),
    {},
    {"a": 1},
    set(),
    (),
    [],
    [[1], [2, 3]],
    (None, None),
    ([],),
    SELF,
    range(3),
    slice(None),
    slice("a", {}),
    object,
    object(),
    len,
    lambda: 1,
    Rude(),
    Liar(),
    Endless(),
    ctypes.c_int(3),
    ctypes.py_object(3),
    ctypes.pointer(ctypes.c_int(3)),
    PurePosixPath("nowhere.cu"),
    np.float32(1),
    np.int64(3),
    np.str_("k"),
    np.datetime64("2020"),
    np.zeros(2, np.float32),
    np.zeros((0, 3)),
    np.zeros((2, 2), ">i4").T,
    np.array([None, {}], object),
    np.array("text"),
    np.ma.masked_array([1.0, 2.0], [True, False]),
    np.zeros(2, [("a", "f4"), ("b", "O")]),
    np.dtype("f4,f4"),
    np.float32,
    "(2,3)f4",
    "V0",
    "O",
    "f4,",
    "M8[ns]",
    [("a", "f4"), ("a", "f4")],
    {"names": ["a"], "formats": ["nonsense"]},
]
NONSENSE = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(TEXTS),
    st.sampled_from(OTHERS),
    st.sampled_from([*NUMBERS, *TEXTS]).map(lambda x: [x]),
    st.lists(st.sampled_from([*NUMBERS[:6], *TEXTS[:4], *OTHERS[:6]]), max_size=4).map(tuple),
    st.text(max_size=5),
)
REGISTRY = nnkit.Registry.discover()
FEW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def refuses_or_works(call: Callable[[], Any]) -> None:
    """Asserts that the call returns, or raises an NnkitError whose first line says something."""
    try:
        found = call()
    except NnkitError as error:
        first, _, rest = str(error).partition("\n")
        assert first.strip()
        # A compiler's log may follow.
        assert not rest or "error" in rest
    else:
        repr(found)


@pytest.fixture(params=["virtual", "fake"])
def loaded(request: pytest.FixtureRequest) -> Iterator[tuple[Any, Any, Any]]:
    """A device that runs kernels, a module, and an array."""
    device = request.getfixturevalue("fake_cuda") if request.param == "fake" else open_device("virtual")
    module = device.load_ptx(PTX)
    yield device, module, device.zeros(4, np.float32)
    if request.param == "virtual":
        device.close()


@pytest.mark.parametrize(
    "endless", [ctypes.pointer(ctypes.c_int(3)), itertools.repeat(1), itertools.repeat("")]
)
def test_what_never_ends(each_device: AnyDevice, endless: Any) -> None:
    array = each_device.zeros((4, 2), np.float32)
    one_line(UsageError, lambda: each_device.zeros(endless, np.float32), "shape")
    one_line(UsageError, lambda: array.reshape(endless), "shape")
    one_line(UsageError, lambda: compile_cuda("__global__ void k() {}", options=endless), "options")
    once: Any = iter((2, 3))
    assert each_device.zeros(once, np.float32).shape == (2, 3)


@FEW
@given(a=NONSENSE, b=NONSENSE)
def test_making_arrays(each_device: AnyDevice, a: Any, b: Any) -> None:
    for call in (
        lambda: each_device.empty(a, np.float32),
        lambda: each_device.zeros(a, b),
        lambda: each_device.empty(3, a),
        lambda: each_device.upload(a),
        lambda: each_device.from_dlpack(a),
    ):
        refuses_or_works(call)


@FEW
@given(a=NONSENSE, b=NONSENSE)
def test_using_arrays(each_device: AnyDevice, a: Any, b: Any) -> None:
    array = each_device.zeros((4, 2), np.float32)
    for call in (
        lambda: array.rows(a, b),
        lambda: array.rows(a, 2),
        lambda: array.reshape(a),
        lambda: array.view(a),
        lambda: array.write(a),
        lambda: array.rows(0, 1).write([a]),
        lambda: array[a],
        lambda: array[a, b],
        lambda: array[a:b],
        lambda: a in array,
        lambda: array.__setitem__(a, b),
    ):
        refuses_or_works(call)
    assert array.shape == (4, 2)
    assert len(array) == 4


@FEW
@given(a=NONSENSE)
def test_doors_of_a_device(each_device: AnyDevice, a: Any) -> None:
    event, other = each_device.event(), each_device.event()
    event.record()
    for call in (
        lambda: each_device.load_ptx(a),
        lambda: event.record(a),
        lambda: event.elapsed_ms(a),
        lambda: other.elapsed_ms(event),
    ):
        refuses_or_works(call)
    if not isinstance(a, str):
        refuses_or_works(lambda: each_device.compile(a))


@settings(FEW, max_examples=25)
@given(a=NONSENSE)
def test_compiling(a: Any) -> None:
    device = open_device("virtual")
    for call in (
        lambda: device.compile(KERNEL, options=a),
        lambda: device.compile(KERNEL, options=[a]),
        lambda: device.compile(KERNEL, arch=a),
        lambda: device.compile(KERNEL, name=a),
    ):
        refuses_or_works(call)
    device.close()


@FEW
@given(a=NONSENSE)
def test_looking_things_up(loaded: tuple[Any, Any, Any], a: Any) -> None:
    _, module, _ = loaded
    for call in (
        lambda: module[a],
        lambda: module.variables[a],
        lambda: a in module.variables,
        lambda: module.variables.get(a),
        lambda: nnkit.open_device(a).close(),
        lambda: nnkit.open_device("cpu", a).close(),
    ):
        refuses_or_works(call)


@FEW
@given(a=NONSENSE, b=NONSENSE)
def test_launching(loaded: tuple[Any, Any, Any], a: Any, b: Any) -> None:
    device, module, array = loaded
    kernel, right = module["k"], (np.int32(1), 1.0, array, array)
    for call in (
        lambda: kernel.launch(a, 1, right),
        lambda: kernel.launch(1, a, right),
        lambda: kernel.launch((1, a), (a, b), right),
        lambda: kernel.launch(1, 1, a),
        lambda: kernel.launch(1, 1, right, a),
        lambda: kernel.launch(1, 1, right, 0, a),
        *(
            lambda place=place: kernel.launch(1, 1, (*right[:place], a, *right[place + 1 :]))
            for place in range(4)
        ),
        lambda: kernel.launch(1, 1, (a, b, b, a)),
    ):
        refuses_or_works(call)
    # And all is as before.
    kernel.launch(1, 1, right)
    device.synchronize()


@FEW
@given(a=NONSENSE)
def test_registry_and_data(a: Any) -> None:
    registry = REGISTRY
    for call in (lambda: registry.gemm(a), lambda: registry.comm(a), lambda: registry.names(a)):
        refuses_or_works(call)
    if a is not None:
        refuses_or_works(lambda: nnkit.load_dataset(a))


@FEW
@given(a=NONSENSE)
def test_configurations(a: Any) -> None:
    for field in dataclasses.fields(nnkit.TrainConfig):
        refuses_or_works(partial(nnkit.TrainConfig, **{field.name: a}))
    refuses_or_works(lambda: nnkit.TrainConfig(hidden=(a,)))


@FEW
@given(a=NONSENSE)
def test_networks(a: Any) -> None:
    full = [(np.zeros((3, 4), np.float32), np.zeros(3, np.float32))] * 1
    right: dict[str, Any] = {
        "full": full,
        "activation": "sigmoid",
        "device": open_device("cpu"),
        "gemm": REGISTRY.gemm("numpy"),
        "strategy": REGISTRY.comm("none").strategy(SingleTransport(), Task((4, 3), 100)),
        "max_batch": 3,
    }
    nnkit.Network(**right)
    for name in right:
        refuses_or_works(partial(nnkit.Network, **{**right, name: a}))
    for wrong in ([(a, a)], [(full[0][0], a)], [*full, *full], [full[0][::-1]]):
        refuses_or_works(partial(nnkit.Network, **{**right, "full": wrong}))


def test_the_fake_driver_sees_no_launch_of_nonsense(fake_cuda: CudaDevice) -> None:
    # A negative control: what is right is not refused.
    module = fake_cuda.load_ptx(PTX)
    array = fake_cuda.zeros(4, np.float32)
    module["k"].launch(1, 1, (np.int32(1), 1.0, array, array))


def test_other_exceptions_would_be_seen() -> None:
    def broken() -> None:
        raise TypeError("from inside")

    with pytest.raises(TypeError):
        refuses_or_works(broken)
