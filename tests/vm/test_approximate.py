"""The approximate functions of the PTX machine: their errors, and their results at the edges.

The bounds are those that nnkit/vm/instructions/approximate.py states, all within what the PTX ISA allows.
NumPy's doubles are the reference for f32, checked against mpmath here, and mpmath itself is where doubles
would not do.
"""

import math
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import mpmath
import numpy as np
import numpy.typing as npt
import pytest

from tests.support.floats import edges, exact
from tests.support.opcodes import EVERY_WAY, FORMATS, UNIFORM, VARYING, WIDE, Bits, Case, check, device, run

F32, F64 = FORMATS["f32"], FORMATS["f64"]
Doubles = npt.NDArray[np.float64]

# What the PTX ISA promises, as relative errors unless it says otherwise.
PTX_EX2 = 2.0**-22
PTX_LG2 = 2.0**-22.6  # absolute between 1/2 and 2
PTX_SIN = 2.0**-20.5  # absolute in [-pi, pi]
PTX_RSQRT = 2.0**-22.9
PTX_TANH = 2.0**-11


def no_model(*_: int) -> int:
    raise AssertionError("this form is not compared bit by bit")


def results(name: str, samples: Doubles) -> tuple[Doubles, Doubles]:
    """The samples, rounded to f32, and the function's results there."""
    column = samples.astype(np.float32)
    (found,) = run([Case(name, "f32", ("f32",), no_model)], [column.view(np.uint32)], VARYING, device(16))
    return column.astype(np.float64), found.view(np.float32).astype(np.float64)


def ulps(found: Doubles, want: Doubles) -> float:
    """The largest error in units of f32's last place, those of denormals for small results."""
    exponent = np.floor(np.log2(np.maximum(np.abs(want), 2.0**-126)))
    return float(np.max(np.abs(found - want) / 2.0 ** (exponent - 23)))


def relative(found: Doubles, want: Doubles) -> float:
    return float(np.max(np.abs(found - want) / np.abs(want)))


def absolute(found: Doubles, want: Doubles) -> float:
    return float(np.max(np.abs(found - want)))


def uniform(low: float, high: float, count: int = 1 << 17) -> Doubles:
    return np.random.default_rng(1).uniform(low, high, count)


def any_positive() -> Doubles:
    """Positive numbers of all sizes, denormals among them."""
    bits = np.random.default_rng(2).integers(1, F32.infinity, 1 << 17).astype(np.uint32)
    return bits.view(np.float32).astype(np.float64)


def test_ex2() -> None:
    x, found = results("ex2.approx.f32", np.concatenate([uniform(-126, 128), uniform(-1, 1)]))
    assert relative(found, 2.0**x) < PTX_EX2
    assert ulps(found, 2.0**x) < 1
    x, found = results("ex2.approx.f32", uniform(-152, -126))
    assert ulps(found, 2.0**x) < 1
    x, found = results("ex2.approx.ftz.f32", uniform(-152, -126))
    assert not found[x < -126].any()
    whole = np.arange(-149, 128).astype(np.float64)
    assert np.array_equal(results("ex2.approx.f32", whole)[1], 2.0**whole)


def test_lg2() -> None:
    x, found = results("lg2.approx.f32", any_positive())
    assert ulps(found, np.log2(x)) < 0.51
    outside = (x < 0.5) | (x > 2)
    assert relative(found[outside], np.log2(x[outside])) < PTX_LG2
    near = 1 + np.arange(-4096, 4096) * 2.0**-24
    x, found = results("lg2.approx.f32", np.concatenate([uniform(0.5, 2), near]))
    assert absolute(found, np.log2(x)) < PTX_LG2
    assert ulps(found, np.log2(x)) < 0.51


@pytest.mark.parametrize(("name", "reference"), [("sin", np.sin), ("cos", np.cos)])
def test_sin_and_cos(name: str, reference: Callable[[Doubles], Doubles]) -> None:
    small = np.random.default_rng(3).choice([-1, 1], 1 << 14) * any_positive()[: 1 << 14]
    small = small[np.abs(small) < 4]
    x, found = results(f"{name}.approx.f32", np.concatenate([uniform(-math.pi, math.pi), small]))
    assert absolute(found, reference(x)) < PTX_SIN
    # The hardest arguments are those nearest to multiples of pi / 2.
    nearest = np.arange(-100_000, 100_000) * (math.pi / 2)
    x, found = results(f"{name}.approx.f32", np.concatenate([uniform(-1e6, 1e6), nearest]))
    assert absolute(found, reference(x)) <= 2.0**-24


@pytest.mark.parametrize("name", ["sin", "cos"])
def test_sin_and_cos_of_large_numbers(name: str) -> None:
    samples = np.concatenate([uniform(-(2.0**power), 2.0**power, 150) for power in range(20, 51, 3)])
    x, found = results(f"{name}.approx.f32", samples)
    with mpmath.workprec(200):
        want = np.array([float(getattr(mpmath, name)(mpmath.mpf(float(value)))) for value in x])
    assert absolute(found, want) <= 2.0**-24
    _, found = results(f"{name}.approx.f32", any_positive())
    assert np.max(np.abs(found)) <= 1


def test_tanh() -> None:
    x, found = results(
        "tanh.approx.f32", np.concatenate([uniform(-10, 10), uniform(-0.5, 0.5), any_positive()])
    )
    normal = np.abs(x) >= 2.0**-126
    assert relative(found[normal], np.tanh(x[normal])) < min(PTX_TANH, 2.0**-21)
    assert absolute(found, np.tanh(x)) < 2.0**-23
    assert np.array_equal(found[~normal], x[~normal])


def test_rsqrt() -> None:
    x, found = results("rsqrt.approx.f32", any_positive())
    assert relative(found, 1 / np.sqrt(x)) < PTX_RSQRT
    assert ulps(found, 1 / np.sqrt(x)) <= 1.5


def test_rsqrt_of_f64() -> None:
    bits = np.random.default_rng(4).integers(1, F64.infinity, 2000, np.uint64)
    for way in (VARYING, UNIFORM):
        (found,) = run([Case("rsqrt.approx.f64", "f64", ("f64",), no_model)], [bits], way, device(way.width))
        with mpmath.workprec(120):
            for x, result in zip(bits.view(np.float64), found.view(np.float64), strict=True):
                assert abs(mpmath.mpf(float(result)) * mpmath.sqrt(mpmath.mpf(float(x))) - 1) < 1.5 * 2.0**-52


def test_the_references() -> None:
    """NumPy's doubles against mpmath, where the tests above rely on them."""
    pairs: list[tuple[Callable[[Doubles], Doubles], Callable[[Any], Any]]] = [
        (np.exp2, lambda v: mpmath.power(2, v)),
        (np.log2, lambda v: mpmath.log(v, 2)),
        *((np.sin, mpmath.sin), (np.cos, mpmath.cos), (np.tanh, mpmath.tanh)),
    ]
    samples = uniform(0.01, 9, 200)
    for of_doubles, of_any in pairs:
        with mpmath.workprec(100):
            want = [float(of_any(mpmath.mpf(float(value)))) for value in samples]
        assert relative(of_doubles(samples), np.array(want)) < 2.0**-44


# -- bit by bit ---------------------------------------------------------------------------------------------


def correctly_rounded() -> Iterator[Case]:
    """What PTX lets be approximate and this machine does exactly."""
    forms = [("div", ".approx"), ("div", ".full"), ("rcp", ".approx"), ("sqrt", ".approx")]
    for (name, how), ftz in product(forms, ("", ".ftz")):
        given = ("f32",) * (2 if name == "div" else 1)
        flush = F32.flushed if ftz else int

        def model(*bits: int, name: str = name, flush: Callable[[int], int] = flush) -> int:
            return flush(F32.rounded(exact(name, F32, *map(flush, bits)), "rn"))

        yield Case(f"{name}{how}{ftz}.f32", "f32", given, model)
    yield Case(
        "rcp.approx.ftz.f64",
        "f64",
        ("f64",),
        lambda a: F64.flushed(F64.rounded(exact("rcp", F64, F64.flushed(a)), "rn")),
    )


def pairs_of_edges(signature: tuple[int, ...]) -> list[Bits]:
    format_ = FORMATS[f"f{signature[0]}"]
    rows = list(product(edges(format_), repeat=len(signature)))
    return [np.array(column, f"u{format_.bits // 8}") for column in zip(*rows, strict=True)]


def test_correctly_rounded() -> None:
    check(correctly_rounded(), pairs_of_edges, EVERY_WAY)


NAN = math.nan
INF = math.inf
TINY, LARGEST_DENORMAL = 2.0**-149, 2.0**-126 - 2.0**-149
ARGUMENTS = (0.0, -0.0, TINY, -TINY, LARGEST_DENORMAL, INF, -INF, NAN)
AT_EDGES = {
    "ex2.approx": (1, 1, 1, 1, 1, INF, 0.0, NAN),
    "ex2.approx.ftz": (1, 1, 1, 1, 1, INF, 0.0, NAN),
    "lg2.approx": (-INF, -INF, -149, NAN, -126, INF, NAN, NAN),
    "lg2.approx.ftz": (-INF, -INF, -INF, -INF, -INF, INF, NAN, NAN),
    "sin.approx": (0.0, -0.0, TINY, -TINY, LARGEST_DENORMAL, NAN, NAN, NAN),
    "sin.approx.ftz": (0.0, -0.0, 0.0, -0.0, 0.0, NAN, NAN, NAN),
    "cos.approx": (1, 1, 1, 1, 1, NAN, NAN, NAN),
    "cos.approx.ftz": (1, 1, 1, 1, 1, NAN, NAN, NAN),
    "tanh.approx": (0.0, -0.0, TINY, -TINY, LARGEST_DENORMAL, 1, -1, NAN),
    "rsqrt.approx": (INF, -INF, 2.0**74.5, NAN, 2.0**63 * (1 + 2.0**-23), 0.0, NAN, NAN),
    "rsqrt.approx.ftz": (INF, -INF, INF, -INF, INF, 0.0, NAN, NAN),
    "sqrt.approx": (0.0, -0.0, 2.0**-74.5, NAN, 2.0**-63 * (1 - 2.0**-24), INF, NAN, NAN),
    "sqrt.approx.ftz": (0.0, -0.0, 0.0, -0.0, 0.0, INF, NAN, NAN),
}
FURTHER = {
    "ex2.approx": {
        128.0: INF,
        1e30: INF,
        127.0: 2.0**127,
        -149.0: TINY,
        -150.0: 0.0,
        -151.0: 0.0,
        -1e30: 0.0,
    },
    "ex2.approx.ftz": {-126.0: 2.0**-126, -127.0: 0.0},
    "lg2.approx": {1.0: 0.0, -1.0: NAN, 2.0: 1.0, 2.0**127: 127.0, 0.5: -1.0},
    "tanh.approx": {1e30: 1.0, -1e30: -1.0, 20.0: 1.0},
    "rsqrt.approx": {-1.0: NAN, 4.0: 0.5},
}


def word(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


@pytest.mark.parametrize("name", AT_EDGES)
def test_edges(name: str) -> None:
    want = dict(zip(map(word, ARGUMENTS), AT_EDGES[name], strict=True))
    want |= {word(argument): result for argument, result in FURTHER.get(name, {}).items()}
    case = Case(f"{name}.f32", "f32", ("f32",), lambda a: word(want[a]))
    check([case], lambda _: [np.array(list(want), np.uint32)], EVERY_WAY)


def test_edges_of_f64() -> None:
    """Only .ftz flushes denormals; the results are far from denormal."""

    def model(a: int, ftz: bool) -> int:
        value = float(np.uint64(F64.flushed(a) if ftz else a).view(np.float64))
        if value == 0:
            return F64.infinity | (a & F64.sign)
        return (
            0
            if value == INF
            else int(np.float64(2.0**537).view(np.uint64))
            if value > 0
            else F64.infinity + 1
        )

    cases = [
        Case(f"rsqrt.approx{ftz}.f64", "f64", ("f64",), lambda a, ftz=bool(ftz): model(a, ftz))
        for ftz in ("", ".ftz")
    ]
    bits = [0, F64.sign, 1, F64.sign | 1, F64.infinity, F64.infinity + 1, F64.sign | F64.infinity]
    check(cases, lambda _: [np.array(bits, np.uint64)], (VARYING, UNIFORM))


def test_scalars_and_wide_vectors_give_the_same() -> None:
    names = [f"{name}.approx.f32" for name in ("ex2", "lg2", "sin", "cos", "tanh", "rsqrt", "sqrt", "rcp")]
    cases = [Case(name, "f32", ("f32",), no_model) for name in names]
    column = np.random.default_rng(5).integers(0, 1 << 32, 4096, np.uint32)
    column[:2048] = uniform(-30, 30, 2048).astype(np.float32).view(np.uint32)
    first, *others = [run(cases, [column], way, device(way.width)) for way in (VARYING, UNIFORM, WIDE)]
    for other in others:
        for name, a, b in zip(names, first, other, strict=True):
            same = (a == b) | (np.isnan(a.view(np.float32)) & np.isnan(b.view(np.float32)))
            assert same.all(), name
