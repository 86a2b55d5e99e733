"""`nnkit gemm-bench` and what it stands on: speeds that can be believed, and no others."""

import json
import math
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnkit.device import open_device
from nnkit.plugins import Registry
from nnkit.verify import gemm_bench, roofline
from nnkit.verify.gemm_bench import Competitor, UnbelievableError, bench_gemm
from tests.support.commands import Command, is_one_line, is_refusal

SMALL = ("--m", 40, "--n", 30, "--k", 20, "--repeat", 4)
NUMPY = Registry.discover().gemm("numpy")


@pytest.fixture(autouse=True)
def _no_run_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested here is not the speed."""
    monkeypatch.setattr(gemm_bench, "WARM_UP", 0.0)


def stop_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "perf_counter", lambda: 1.0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_document(main: Command, dtype: str) -> None:
    result = main("gemm-bench", "--backend", "numpy", *SMALL, "--dtype", dtype, "--json")
    assert (result.status, result.stderr) == (0, "")
    document = json.loads(result.stdout)
    gflops, other, ratio = (document.pop(name) for name in ("gflops", "against_gflops", "ratio"))
    assert 0 < gflops < math.inf
    assert 0 < other < math.inf
    assert ratio == pytest.approx(gflops / other)
    assert document.pop("threads") >= 1
    blas = document.pop("blas")
    assert blas is None or blas
    assert document == {
        **{"m": 40, "n": 30, "k": 20, "dtype": dtype, "repeats": 4},
        **{"backend": "numpy", "device": "cpu", "against": "numpy", "against_device": "cpu"},
    }


def test_a_kernel_backend_beside_numpy(main: Command) -> None:
    result = main("gemm-bench", "--backend", "tiled", "--device", "virtual", *SMALL, "--json")
    assert result.status == 0, result
    document = json.loads(result.stdout)
    assert (document["device"], document["against_device"]) == ("virtual", "cpu")


def test_one_line_for_people(main: Command) -> None:
    result = main("gemm-bench", "--backend", "numpy", *SMALL)
    assert result.status == 0
    (line,) = result.stdout.splitlines()
    assert line.startswith("40 x 30 x 20 float32, median of 4: numpy on cpu ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--m", 0), "--m 0: give 1 or more"),
        (("--n", -1), "--n -1: give 1 or more"),
        (("--k", 0), "--k 0: give 1 or more"),
        (("--repeat", 0), "--repeat 0: give 1 or more"),
        (("--m", 20_000, "--n", 20_000), "give smaller sizes"),
        (("--dtype", "float16"), "--dtype float16"),
        (("--backend", "nunpy"), "Did you mean 'numpy'?"),
        (("--against", "nunpy"), "Did you mean 'numpy'?"),
        (("--backend", "numpy", "--device", "cqu"), "cqu"),
    ],
)
def test_bad_values_are_refused(main: Command, arguments: tuple[object, ...], words: str) -> None:
    assert is_refusal(main("gemm-bench", *arguments), words)


def test_faster_than_the_machine_is_refused(main: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_the_clock(monkeypatch)
    result = main("gemm-bench", "--backend", "numpy", *SMALL, "--json")
    assert (result.status, result.stdout) == (1, "")
    assert is_one_line(result, "'numpy'", "GFLOP/s", "at most")


class Lazy:
    """Does nothing: the poison stays."""

    name = "lazy"
    devices = frozenset({"cpu"})
    dtypes = frozenset({"float32"})

    def gemm(self, a: Any, b: Any, c: Any, **_: Any) -> None:
        pass


class Remembering(Lazy):
    """Gives every time the product that it computed first."""

    name = "remembering"
    first: Any = None

    def gemm(self, a: Any, b: Any, c: Any, **_: Any) -> None:
        if self.first is None:
            self.first = a.host @ b.host
        c.host[:] = self.first


class Half(Lazy):
    """Computes in half the precision that it declares."""

    name = "half"

    def gemm(self, a: Any, b: Any, c: Any, **_: Any) -> None:
        c.host[:] = a.host.astype(np.float16) @ b.host.astype(np.float16)


class LastColumn(Lazy):
    """Wrong in a single column."""

    name = "last"

    def gemm(self, a: Any, b: Any, c: Any, **_: Any) -> None:
        np.matmul(a.host, b.host, out=c.host)
        c.host[:, -1] *= 1.001


@pytest.mark.parametrize("broken", [Lazy, Remembering, Half, LastColumn])
def test_a_wrong_product_has_no_speed(broken: type[Lazy]) -> None:
    device = open_device("cpu")
    competitors = [Competitor(backend, device) for backend in (NUMPY, broken())]
    with pytest.raises(UnbelievableError, match=f"{broken.name}.*wrong product"):
        bench_gemm(competitors, 30, 20, 10, "float32", repeats=3)


def test_everybody_takes_every_turn() -> None:
    """Each competitor goes first equally often, and meets other operands than in the round before."""
    met: list[tuple[str, bytes]] = []

    class Watched(Lazy):
        def __init__(self, name: str):
            self.name = name

        def gemm(self, a: Any, b: Any, c: Any, **_: Any) -> None:
            assert np.isnan(c.host).all()
            met.append((self.name, a.host.tobytes()))
            np.matmul(a.host, b.host, out=c.host)

    device = open_device("cpu")
    speeds = bench_gemm([Competitor(Watched(name), device) for name in "ab"], 9, 8, 7, "float32", repeats=4)
    assert [len(speed.seconds) for speed in speeds] == [4, 4]
    rounds = [met[start : start + 2] for start in range(2, len(met), 2)]
    assert [first[0] for first, _ in rounds] == ["a", "b", "a", "b"]
    assert all(first[1] == second[1] for first, second in rounds)
    assert all(one[0][1] != other[0][1] for one, other in pairwise(rounds))


def test_the_roofline_by_flags() -> None:
    per_cycle = roofline._flops_per_cycle
    assert per_cycle("processor : 0\nflags\t\t: fpu sse2 avx avx2 avx512f\n") == 64
    assert per_cycle("flags : sse2 avx avx2 avx512_but_another\n") == 32
    assert per_cycle("flags : sse2\n") == 16
    assert per_cycle("Features\t: fp asimd\n") == 32
    assert per_cycle("") == math.inf


def test_the_roofline_by_clock(tmp_path: Path) -> None:
    assert roofline._clock_ghz(tmp_path) == roofline.FASTEST_CLOCK
    for core, kilohertz in enumerate(("3500000\n", "4800000\n", "nonsense")):
        folder = tmp_path / f"cpu{core}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "cpuinfo_max_freq").write_text(kilohertz)
    assert roofline._clock_ghz(tmp_path) == 4.8


def test_the_roofline_lies_above_blas() -> None:
    device = open_device("cpu")
    (speed,) = bench_gemm([Competitor(NUMPY, device)], 300, 300, 300, "float32", repeats=5)
    peak = roofline.peak_gflops(device, "float32")
    assert speed.gflops < peak
    assert roofline.peak_gflops(device, "float64") == peak / 2
