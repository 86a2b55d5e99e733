"""The parameters of kernels and the limits of their blocks, read from PTX."""

import pytest

from nnkit.device.compile import compile_cuda
from nnkit.device.kernels.parameters import Parameter, parameters, thread_limits
from nnkit.errors import CompileError
from nnkit.ptx.interface import Interface


def test_parameters_of_what_nvrtc_writes() -> None:
    source = r"""
    struct Pair { double scale; int shift; };
    extern "C" __global__ void all(const float* x, float* y, int n, float a, double d, bool f,
                                   unsigned char c, short s, long long wide, Pair pair, float4 four) {
        y[n] = x[n] * a + d + f + c + s + wide + pair.scale + four.x;
    }
    extern "C" __global__ void none() {}
    template <int N> __global__ __launch_bounds__(N) void bounded(float* x) { x[0] = N; }
    template __global__ void bounded<96>(float*);
    """
    ptx = compile_cuda(source).ptx
    found = parameters(Interface(ptx))
    assert {name: len(taken) for name, taken in found.items()} == {
        "all": 11,
        "none": 0,
        "_Z7boundedILi96EEvPf": 1,
    }
    assert [(p.kind, p.size, p.align) for p in found["all"]] == [
        ("pointer", 8, 8),
        ("pointer", 8, 8),
        ("integer", 4, 4),
        ("float", 4, 4),
        ("float", 8, 8),
        ("integer", 1, 1),
        ("integer", 1, 1),
        ("integer", 2, 2),
        ("pointer", 8, 8),
        ("struct", 16, 8),
        ("struct", 16, 16),
    ]
    assert thread_limits(Interface(ptx)) == {"_Z7boundedILi96EEvPf": 96}


def test_parameters_of_what_people_write() -> None:
    ptx = """
    .file 1 "a//b.cu" // .entry no(.param .u32 a)
    /* .entry neither(.param .u32 a) */
    .weak .entry spread
    (
        .param .u64 .ptr .align 1 p, // the input
        .param
            .u64.ptr.global.align 16 q,
        .param .align 8 .b8 s[ 24 ],
        .param .b8 raw[3],
        .param .f16 half
    )
    .reqntid 8, 4, 2
    { ret; }
    .entry bare .maxntid 128 { ret; }
    .func (.param .b32 r) helper(.param .b32 a) { ret; }
    """
    assert parameters(Interface(ptx)) == {
        "spread": (
            Parameter("p", 8, 8, "pointer", marked=True),
            Parameter("q", 8, 8, "pointer", marked=True),
            Parameter("s", 24, 8, "struct"),
            Parameter("raw", 3, 1, "struct"),
            Parameter("half", 2, 2, "float"),
        ),
        "bare": (),
    }
    assert thread_limits(Interface(ptx)) == {"spread": 64, "bare": 128}


@pytest.mark.parametrize("text", [".texref t", ".v4 .f32 v", ".pred p", ".align 4 .b8"])
def test_parameters_that_are_not_understood_are_refused(text: str) -> None:
    with pytest.raises(CompileError, match="kernel k: the parameter"):
        parameters(Interface(f".entry k(.param {text}) {{ ret; }}"))
