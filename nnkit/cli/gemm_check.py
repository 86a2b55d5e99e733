"""`nnkit gemm-check`: is a backend's matrix product right?"""

import math
from typing import Annotated

import typer

from nnkit.cli import options


def gemm_check(
    m: Annotated[int, typer.Option("--m", help="Rows of C.")] = 1000,
    n: Annotated[int, typer.Option("--n", help="Columns of C.")] = 800,
    k: Annotated[int, typer.Option("--k", help="Terms of each sum.")] = 784,
    backend: options.Backend = "numpy",
    device: options.Device = "auto",
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    seed: Annotated[int, typer.Option(help="Decides the operands.")] = 0,
    json: options.Json = False,
) -> int:
    """Compare a backend with the float64 product, at this size and at edges, under a rounding bound."""
    from nnkit.device import open_device_for
    from nnkit.plugins import Registry, check_serves
    from nnkit.verify.findings import find, name_of
    from nnkit.verify.gemm_check import check_gemm
    from nnkit.verify.sizes import EDGES, check_options

    check_options(m, n, k, dtype, 0, seed=seed)
    chosen = Registry.discover().gemm(backend)
    opened, _ = open_device_for(chosen.devices, device)
    check_serves(chosen, opened.name, dtype)
    cases = check_gemm(chosen, opened, m, n, k, dtype, seed, EDGES)
    worst = max(cases, key=lambda case: case.of_bound)
    failed = sum(bool(case.failures) for case in cases)
    sizes = {(m, n, k), *EDGES}
    findings = find(cases, tuple(sizes))
    usual = max(case.of_estimate for case in cases)
    failures = [{"case": name_of(case), "what": what} for case in cases for what in case.failures]
    document = {
        "m": m,
        "n": n,
        "k": k,
        "dtype": dtype,
        "backend": backend,
        "device": opened.name,
        "seed": seed,
        "verdict": "fail" if failed else "pass",
        "cases": len(cases),
        "failed": failed,
        "largest_error": _finite(worst.largest_error),
        "of_bound": _finite(worst.of_bound),
        "of_estimate": _finite(usual),
        "failures": failures,
        "sizes": len(sizes),
        "findings": [
            {"cases": found.cases, "sizes": found.sizes, "what": found.what, "source": list(found.notes)}
            for found in findings
        ],
    }
    if json:
        options.print_json(document)
    else:
        for found in findings:
            print("\n".join([str(found), *found.notes]))
        print(
            f"{document['verdict']}: backend {backend} on {opened.name}, {m} x {n} x {k} {dtype}, "
            f"{len(cases) - failed} of {len(cases)} cases right, here and at {len(sizes) - 1} edge sizes; "
            f"largest error {worst.of_bound:.3g} of the rounding bound, {usual:.3g} of the usual sqrt(K) u"
        )
    return 1 if failed else 0


def _finite(value: float) -> float | None:
    """None for infinity and NaN, which JSON does not have."""
    return value if math.isfinite(value) else None
