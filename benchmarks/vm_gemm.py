"""How fast is `tiled` on the device virtual? Beside NumPy's OpenBLAS, in one run, in turns.

    ./tools/run python benchmarks/vm_gemm.py [--repeat 15] [--keep-pin] [--json]

C <- op(A) op(B) with one thread and with two, each in a process of its own, because NNKIT_THREADS and
OPENBLAS_NUM_THREADS are read at the start. Every memory access is checked, as always. Every product is
checked after the clock has stopped, see nnkit/verify/gemm_bench.py. Goal: half of OpenBLAS' speed.

An environment variable that pins OpenBLAS to another processor's kernels (OPENBLAS_CORETYPE) makes the ratio
look better than it is: where one is set, the benchmark measures without it first, then with it; --keep-pin
measures with it alone.
"""

import argparse
import json
import os
from typing import TYPE_CHECKING, Any, Required, TypedDict

import shared

if TYPE_CHECKING:
    from nnkit.contracts import Array, DtypeName, GemmBackend

THREADS = (1, 2)
GOAL = 0.5
SIZES = ((1000, 800, 784), (1024, 1024, 1024))
SLOW_REPEATS = 5

# Backend, dtype, M, N, K, whether A and B are transposed, and the goal.
CASES: list[tuple[str, "DtypeName", int, int, int, bool, bool, float | None]] = [
    *(("tiled", "float32", *size, False, False, GOAL) for size in SIZES),
    *(
        ("tiled", "float32", *SIZES[0], *turned, None)
        for turned in ((False, True), (True, False), (True, True))
    ),
    ("tiled", "float64", *SIZES[0], False, False, None),
    ("naive", "float32", *SIZES[0], False, False, None),
]


class Row(shared.Goal, total=False):
    """One case: the speeds and their ratio, or why there are none."""

    backend: Required[str]
    dtype: Required[str]
    m: Required[int]
    n: Required[int]
    k: Required[int]
    operands: Required[str]
    gflops: float
    numpy_gflops: float
    ratio: float
    error: str


class Report(TypedDict):
    """All cases with a number of threads."""

    threads: int
    environment: shared.Blas
    results: list[Row]


class Turned:
    """A device that stores operands transposed where the backend is to transpose them: A, B, A, B, ..."""

    def __init__(self, device: Any, trans_a: bool, trans_b: bool):
        self.device, self.turns, self.uploads = device, (trans_a, trans_b), 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.device, name)

    def upload(self, host: Any) -> Any:
        """A copy of A or B, transposed if it is its turn."""
        turn = self.turns[self.uploads % 2]
        self.uploads += 1
        return self.device.upload(host.T if turn else host)


class Transposing:
    """A backend that is told to transpose what `Turned` has stored."""

    def __init__(self, backend: "GemmBackend[Array]", trans_a: bool, trans_b: bool):
        self.name, self.devices, self.dtypes = backend.name, backend.devices, backend.dtypes
        self.backend, self.trans_a, self.trans_b = backend, trans_a, trans_b

    def gemm(
        self,
        a: Any,
        b: Any,
        c: Any,
        *,
        alpha: float = 1.0,
        beta: float = 0.0,
        trans_a: bool = False,
        trans_b: bool = False,
    ) -> None:
        """The product of what is stored."""
        trans_a, trans_b = trans_a != self.trans_a, trans_b != self.trans_b
        self.backend.gemm(a, b, c, alpha=alpha, beta=beta, trans_a=trans_a, trans_b=trans_b)


def measure(repeats: int) -> Report:
    """All cases with the threads that the environment asks for."""
    from nnkit import NnkitError, Registry
    from nnkit.device.cpu import CpuDevice
    from nnkit.device.virtual import VirtualDevice
    from nnkit.verify.gemm_bench import Competitor, bench_gemm

    registry = Registry.discover()
    virtual, cpu = VirtualDevice(), CpuDevice()
    rows: list[Row] = []
    for backend, dtype, m, n, k, trans_a, trans_b, goal in CASES:
        pair = [
            Competitor(Transposing(registry.gemm(name), trans_a, trans_b), Turned(device, trans_a, trans_b))
            for name, device in ((backend, virtual), ("numpy", cpu))
        ]
        row: Row = {
            "backend": backend,
            "dtype": dtype,
            "m": m,
            "n": n,
            "k": k,
            "operands": f"{'A^T' if trans_a else 'A'} {'B^T' if trans_b else 'B'}",
            "at_least": goal,
        }
        try:
            one, other = bench_gemm(
                pair, m, n, k, dtype, min(repeats, SLOW_REPEATS) if backend == "naive" else repeats
            )
            row |= {"gflops": one.gflops, "numpy_gflops": other.gflops, "ratio": one.gflops / other.gflops}
        except NnkitError as error:
            row["error"] = str(error)
        rows.append(row)
    return {"threads": virtual.threads, "environment": shared.blas(), "results": rows}


def show(report: Report) -> None:
    print(
        f"{report['threads']} thread{'s' * (report['threads'] > 1)}; {shared.in_words(report['environment'])}"
    )
    for row in report["results"]:
        name = f"{row['backend']} {row['m']}x{row['n']}x{row['k']} {row['dtype']} {row['operands']}"
        if "error" in row:
            print(f"  {name:<38} {row['error']}")
            continue
        speeds = f"{row['gflops']:7.1f} GFLOP/s, NumPy {row['numpy_gflops']:7.1f}, ratio {row['ratio']:5.2f}"
        print(f"  {name:<38} {speeds}  {shared.goal(row, row['ratio'])}".rstrip())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=15, help="rounds of each case; the median counts")
    parser.add_argument("--keep-pin", action="store_true", help=f"only with {shared.PIN} as it is")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # A child of this program.
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.repeat)))
        return
    pinned = os.environ.get(shared.PIN)
    pins = [pinned] if options.keep_pin or pinned is None else [None, pinned]
    reports: list[Report] = []
    for pin in pins:
        for threads in THREADS:
            environment = {
                "NNKIT_THREADS": str(threads),
                "OPENBLAS_NUM_THREADS": str(threads),
                shared.PIN: pin,
            }
            report: Report = shared.child(__file__, ["--one", f"--repeat={options.repeat}"], environment)
            reports.append(report)
            if not options.json:
                show(report)
    if options.json:
        print(json.dumps({"cores": os.cpu_count(), "reports": reports}, indent=2))


if __name__ == "__main__":
    main()
