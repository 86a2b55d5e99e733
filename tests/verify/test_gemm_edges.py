"""At its default sizes the judge of products catches what is wrong at an edge alone, and says it once."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from nnkit.contracts import GemmBackend, HostArray
from nnkit.device.cpu import CpuDevice
from nnkit.device.virtual import VirtualArray, VirtualDevice
from nnkit.plugins import Registry
from nnkit.verify.findings import describe_cases, find
from nnkit.verify.gemm_check import SCALINGS, Case, check_gemm
from nnkit.verify.places import describe_places
from nnkit.verify.sizes import EDGES, describe_sizes
from tests.support.commands import Command

DEFAULT = (1000, 800, 784)

TILED = r"""
#define SIDE 16
extern "C" __global__ void g(int m, int n, int k, float alpha, const float *a, long long ar, long long ac,
                             const float *b, long long br, long long bc, float beta, float *c)
{
    __shared__ float as[SIDE][SIDE], bs[SIDE][SIDE];
    const int tx = threadIdx.x, ty = threadIdx.y;
    const int row = blockIdx.y * SIDE + ty, col = blockIdx.x * SIDE + tx;
    float sum = 0;
    for (int p = 0; p < K_LOOP; p += SIDE) {
        as[ty][tx] = (row < A_M && p + tx < A_K) ? a[row * A_ROW + (p + tx) * A_COL] : A_ELSE;
        bs[ty][tx] = (p + ty < B_K && col < B_N) ? b[(p + ty) * B_ROW + col * B_COL] : B_ELSE;
        __syncthreads();
        for (int i = 0; i < INNER; ++i)
            sum += as[ty][i] * bs[i][tx];
        __syncthreads();
    }
    if (row < C_M && col < C_N) {
        float *out = c + (long long)row * C_ROW + col;
        *out = BETA_0 ? alpha * sum : alpha * sum + beta * *out;
    }
}
"""

RIGHT = {
    "K_LOOP": "k",
    "A_M": "m",
    "A_K": "k",
    "A_ROW": "ar",
    "A_COL": "ac",
    "A_ELSE": "0.f",
    "B_K": "k",
    "B_N": "n",
    "B_ROW": "br",
    "B_COL": "bc",
    "B_ELSE": "0.f",
    "INNER": "SIDE",
    "C_M": "m",
    "C_N": "n",
    "C_ROW": "n",
    "BETA_0": "beta == 0",
}

MUTANTS = {
    "A: k <= for <": {"A_K": "k + 1"},
    "A: k guard too small": {"A_K": "k - 1"},
    "A: no k guard": {"A_K": "1 << 30"},
    "A: m <= for <": {"A_M": "m + 1"},
    "A: m guard too small": {"A_M": "m - 1"},
    "A: no m guard": {"A_M": "1 << 30"},
    "A: guards swapped": {"A_M": "k", "A_K": "m"},
    "A: guarded by n": {"A_M": "n"},
    "A: strides swapped": {"A_ROW": "ac", "A_COL": "ar"},
    "A: row stride of B": {"A_ROW": "br"},
    "A: ones beyond the edge, and so in B": {"A_ELSE": "1.f", "B_ELSE": "1.f"},
    "B: k <= for <": {"B_K": "k + 1"},
    "B: no k guard": {"B_K": "1 << 30"},
    "B: n <= for <": {"B_N": "n + 1"},
    "B: n guard too small": {"B_N": "n - 1"},
    "B: no n guard": {"B_N": "1 << 30"},
    "B: guarded by m": {"B_N": "m"},
    "B: strides swapped": {"B_ROW": "bc", "B_COL": "br"},
    "no guard of k at all": {"A_K": "1 << 30", "B_K": "1 << 30"},
    "the remainder of k is dropped": {"K_LOOP": "k / SIDE * SIDE"},
    "the last step of k is dropped": {"K_LOOP": "k - 1"},
    "an even number of terms only": {"A_K": "k / 2 * 2"},
    "one term too few in each tile": {"INNER": "SIDE - 1"},
    "C: m <= for <": {"C_M": "m + 1"},
    "C: m guard too small": {"C_M": "m - 1"},
    "C: no m guard": {"C_M": "1 << 30"},
    "C: n <= for <": {"C_N": "n + 1"},
    "C: n guard too small": {"C_N": "n - 1"},
    "C: no n guard": {"C_N": "1 << 30"},
    "C: guards swapped": {"C_M": "n", "C_N": "m"},
    "C: row stride m": {"C_ROW": "m"},
    "C: rows as wide as tiles": {"C_ROW": "((n + SIDE - 1) / SIDE * SIDE)"},
    "C is read for beta = 0": {"BETA_0": "false"},
    "beta is forgotten": {"BETA_0": "true"},
    "a size too much in loads and stores": {"A_M": "m + 1", "C_M": "m + 1"},
}


Grid = Callable[[int, int], tuple[int, int]]


class Kernel:
    """The tiled kernel as a backend, with some of its pieces exchanged."""

    name = "mutant"
    devices = frozenset({"virtual"})
    dtypes = frozenset({"float32"})

    def __init__(
        self,
        device: VirtualDevice,
        pieces: dict[str, str],
        grid: Any = lambda m, n: (-(-n // 16), -(-m // 16)),
    ):
        options = [f"-D{name}=({piece})" for name, piece in {**RIGHT, **pieces}.items()]
        self.kernel = device.compile(TILED, name="mutant.cu", options=options)["g"]
        self.grid = grid

    def gemm(
        self,
        a: VirtualArray,
        b: VirtualArray,
        c: VirtualArray,
        *,
        alpha: float = 1,
        beta: float = 0,
        trans_a: bool = False,
        trans_b: bool = False,
    ) -> None:
        m, n = c.shape
        k = a.shape[0] if trans_a else a.shape[1]
        if m and n:
            strides_a = (1, m) if trans_a else (k, 1)
            strides_b = (1, k) if trans_b else (n, 1)
            args = (m, n, k, alpha, a, *strides_a, b, *strides_b, beta, c)
            self.kernel.launch(self.grid(m, n), (16, 16), args)


class Host:
    """A product in NumPy, spoiled by `spoil`: right as it stands."""

    name = "host"
    devices = frozenset({"cpu"})
    dtypes = frozenset({"float32", "float64"})

    def gemm(
        self,
        a: HostArray,
        b: HostArray,
        c: HostArray,
        *,
        alpha: float = 1,
        beta: float = 0,
        trans_a: bool = False,
        trans_b: bool = False,
    ) -> None:
        left, right = a.host.T if trans_a else a.host, b.host.T if trans_b else b.host
        before = c.host.copy()
        real = c.dtype.type
        c.host[...] = real(alpha) * (left @ right) + (real(beta) * before if beta else 0)
        self.spoil(left, right, c.host, before, real(alpha))

    def spoil(self, a: Any, b: Any, c: Any, before: Any, alpha: Any) -> None:
        """Nothing."""


def drops(unit: int) -> Any:
    """Leaves out the terms behind the last multiple of `unit`."""

    def spoil(self: Any, a: Any, b: Any, c: Any, before: Any, alpha: Any) -> None:
        kept = a.shape[1] // unit * unit
        c -= alpha * (a[:, kept:] @ b[kept:])

    return spoil


def keeps_rows(unit: int) -> Any:
    """Does not write the rows behind the last multiple of `unit`."""

    def spoil(self: Any, a: Any, b: Any, c: Any, before: Any, alpha: Any) -> None:
        kept = len(c) // unit * unit
        c[kept:] = before[kept:]

    return spoil


def keeps_columns(unit: int) -> Any:
    """Does not write the columns behind the last multiple of `unit`."""

    def spoil(self: Any, a: Any, b: Any, c: Any, before: Any, alpha: Any) -> None:
        kept = c.shape[1] // unit * unit
        c[:, kept:] = before[:, kept:]

    return spoil


def reads_beyond_a(self: Any, a: Any, b: Any, c: Any, before: Any, alpha: Any) -> None:
    """Multiplies what follows A by zero."""
    plain = a.T if a.flags.f_contiguous and not a.flags.c_contiguous else a
    beyond = np.lib.stride_tricks.as_strided(plain, (plain.shape[0] + 1, plain.shape[1]), writeable=False)
    if c.size and plain.size:
        c[-1] += 0 * beyond[-1, 0]


def wrong_alone(*lengths: int) -> Any:
    """Is wrong at one size alone."""

    def spoil(self: Any, a: Any, b: Any, c: Any, before: Any, alpha: Any) -> None:
        if (len(c), c.shape[1], a.shape[1]) == lengths:
            c += 1

    return spoil


ON_THE_HOST = {
    **{f"the remainder of K by {unit}": drops(unit) for unit in (2, 4, 8)},
    **{f"the remainder of M by {unit}": keeps_rows(unit) for unit in (2, 4, 8)},
    **{f"the remainder of N by {unit}": keeps_columns(unit) for unit in (2, 4, 8, 16, 32)},
    "beyond A": reads_beyond_a,
    "a product of single numbers": wrong_alone(1, 1, 1),
}


@pytest.fixture(scope="module")
def device() -> Iterator[VirtualDevice]:
    virtual = VirtualDevice()
    yield virtual
    virtual.close()


def faults(
    backend: GemmBackend[VirtualArray], device: VirtualDevice, size: tuple[int, int, int]
) -> list[str]:
    cases = check_gemm(backend, device, *size, "float32", seed=0)
    return [failure for case in cases for failure in case.failures]


def is_caught(backend: GemmBackend[VirtualArray], device: VirtualDevice) -> bool:
    """Whether the edges find anything, beside a size in which nothing is one; the first finding will do."""
    parts = [EDGES[start : start + 4] for start in range(0, len(EDGES), 4)]
    checked = (check_gemm(backend, device, 32, 32, 32, "float32", seed=0, edges=part) for part in parts)
    return any(case.failures for cases in checked for case in cases)


def test_the_kernel_without_a_mutation_is_not_accused(device: VirtualDevice) -> None:
    assert faults(Kernel(device, {}), device, (50, 40, 48)) == []


@pytest.mark.parametrize("name", ["naive", "tiled"])
def test_the_kernels_that_ship_are_not_accused(device: VirtualDevice, name: str) -> None:
    assert faults(Registry.discover().gemm(name), device, (48, 40, 33)) == []


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_of_a_kernel_is_caught(device: VirtualDevice, mutant: str) -> None:
    assert is_caught(Kernel(device, MUTANTS[mutant]), device)


@pytest.mark.parametrize(
    "grid",
    [lambda m, n: (n // 16 + 1, m // 16), lambda m, n: (-(-m // 16), -(-n // 16)), lambda m, n: (1, 1)],
    ids=["rounded down", "swapped", "one block"],
)
def test_a_wrong_grid_is_caught(device: VirtualDevice, grid: Grid) -> None:
    assert is_caught(Kernel(device, {}, grid), device)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_product_in_numpy_is_not_accused(dtype: str) -> None:
    cases = check_gemm(Host(), CpuDevice(), 40, 40, 40, dtype, seed=0)
    assert [case.failures for case in cases] == [()] * 16


@pytest.mark.parametrize("mutant", ON_THE_HOST)
def test_a_mutant_on_the_host_is_caught_by_the_edges(mutant: str) -> None:
    backend = type("Mutant", (Host,), {"spoil": ON_THE_HOST[mutant]})()
    cpu = CpuDevice()
    # No edge for these, as the default size is none, and quicker.
    even = (160, 160, 160)
    alone = check_gemm(backend, cpu, *even, "float32", seed=0, edges=())
    assert mutant == "beyond A" or not any(case.failures for case in alone)
    assert any(case.failures for case in check_gemm(backend, cpu, *even, "float32", seed=0))


SMALL = tuple(size for size in EDGES if {0, 1, 8, 16, 17, 24, 32}.issuperset(size))


def findings(backend: Any, device: Any, size: tuple[int, int, int] = (32, 32, 32)) -> list[Any]:
    return find(check_gemm(backend, device, *size, "float32", 0, edges=SMALL), (size, *SMALL))


def test_one_mistake_is_one_finding(device: VirtualDevice) -> None:
    (found,) = findings(Kernel(device, {"K_LOOP": "k / SIDE * SIDE"}), device)
    # With alpha = 0 the terms are not missed.
    assert found.cases == "all 12 cases with alpha not 0"
    assert found.sizes == "wherever K is no multiple of 16, as at 1 x 1 x 1"
    (found,) = findings(Kernel(device, {"C_N": "n - 1"}), device)
    assert (found.cases, found.sizes) == ("all 16 cases", "at every size, the smallest 1 x 1 x 1")
    (found,) = findings(Kernel(device, {"BETA_0": "false"}), device)
    assert found.cases == "all 4 cases with beta = 0"
    (found,) = findings(Kernel(device, {"BETA_0": "true"}), device)
    assert found.cases == "all 12 cases with beta not 0"


def test_a_fault_of_a_kernel_is_one_finding_with_its_line(device: VirtualDevice) -> None:
    (found,) = findings(Kernel(device, {"C_M": "m + 1"}), device)
    assert found.cases == "all 16 cases"
    assert found.sizes == "wherever M is no multiple of 16, as at 1 x 1 x 1"
    assert "raised DeviceMemoryError: kernel g at " in found.what
    assert "mutant.cu:20" in found.what


class Raises(Host):
    def spoil(self, a: Any, b: Any, c: Any, before: Any, alpha: Any) -> None:
        raise RuntimeError(f"no {c.shape} today")


def test_an_exception_is_one_finding_whatever_its_numbers() -> None:
    (found,) = findings(Raises(), CpuDevice())
    assert str(found).startswith(
        "all 16 cases, at every size, the smallest 1 x 1 x 1: raised RuntimeError: no (1,"
    )


def test_an_array_with_a_wrong_last_row_says_so() -> None:
    broken = np.zeros((65, 33), bool)
    broken[64] = True
    assert describe_places(broken) == ", only row 64, the last"
    broken[:] = False
    broken[:, 0] = True
    assert describe_places(broken) == ", only column 0, the first"
    broken[:] = False
    broken[60:, 5:8] = True
    assert describe_places(broken) == ", only rows 60 to 64, the last 5 in columns 5 to 7"
    broken[62, 6] = False
    assert describe_places(broken) == ", only in rows 60 to 64, the last 5"
    for none in (np.ones((3, 3), bool), np.eye(9, dtype=bool)):
        assert describe_places(none) == ""


def test_sizes_in_words() -> None:
    tried = set(EDGES) | {DEFAULT}
    assert describe_sizes({DEFAULT}, {DEFAULT}) == "at 1000 x 800 x 784"
    some = {(1, 1, 1), (17, 33, 33)}
    assert describe_sizes(some | {DEFAULT}, tried).startswith("at 3 of ")
    odd = {size for size in tried if size[0] and size[1] and (size[0] % 8 or size[1] % 8)}
    assert describe_sizes(odd, tried).startswith("wherever M or N is no multiple of 8, as at 1 x 1 x 1")
    # A single exception, and the rule is not told.
    assert describe_sizes(odd - {(1, 1, 1)}, tried).startswith("at ")


def test_cases_in_words() -> None:
    def case(trans_a: bool, trans_b: bool, alpha: float, beta: float) -> Case:
        return Case(trans_a, trans_b, alpha, beta, (), 0, 0, 0)

    both = (False, True)
    cases = [case(a, b, *scaling) for a in both for b in both for scaling in SCALINGS]
    assert describe_cases(cases, cases) == "all 16 cases"
    assert describe_cases([c for c in cases if c.trans_b], cases) == "all 8 cases with B transposed"
    some = [c for c in cases if c.trans_b and c.beta == 0]
    assert describe_cases(some, cases) == "all 2 cases with B transposed and beta = 0"
    assert describe_cases(cases[:1], cases) == "only C <- 1 A B + 0 C"
    assert describe_cases(cases[:3], cases) == "3 of 16 cases, the first C <- 1 A B + 0 C"


def test_every_length_is_tried_in_every_place_and_in_company() -> None:
    for axis in range(3):
        lengths = {size[axis] for size in EDGES}
        assert {0, 1, 15, 16, 17, 31, 33, 63, 65, 127, 129} <= lengths
        for length in (1, 17, 129):
            assert len({size for size in EDGES if size[axis] == length}) >= 2
    assert len(set(EDGES)) == len(EDGES)


def test_the_command_says_each_mistake_once(main: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = type("Mutant", (Host,), {"spoil": keeps_rows(2)})()
    monkeypatch.setattr("nnkit.verify.sizes.EDGES", SMALL)
    monkeypatch.setattr(Registry, "gemm", lambda self, name: broken)
    result = main("gemm-check", "--m", 6, "--n", 5, "--k", 4)
    assert result.status == 1
    first, verdict = result.stdout.splitlines()
    assert first.startswith(
        "all 16 cases, wherever M is no multiple of 2, as at 1 x 1 x 1: 1 of 1 components"
    )
    assert verdict.startswith(
        "fail: backend numpy on cpu, 6 x 5 x 4 float32, 0 of 16 cases right, here and at"
    )
    document = json.loads(main("gemm-check", "--m", 6, "--n", 5, "--k", 4, "--json").stdout)
    assert (document["verdict"], document["failed"], len(document["failures"])) == ("fail", 16, 16)
    (found,) = document["findings"]
    assert found["cases"] == "all 16 cases"
    assert document["sizes"] == len(SMALL) + 1
