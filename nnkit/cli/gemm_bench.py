"""`nnkit gemm-bench`: how fast is a backend's matrix product, beside another's?"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nnkit.cli import options

if TYPE_CHECKING:
    from nnkit.plugins import Registry
    from nnkit.verify.gemm_bench import Competitor


def gemm_bench(
    m: Annotated[int, typer.Option("--m", help="Rows of C.")] = 1000,
    n: Annotated[int, typer.Option("--n", help="Columns of C.")] = 800,
    k: Annotated[int, typer.Option("--k", help="Terms of each sum.")] = 784,
    backend: options.Backend = "tiled",
    against: Annotated[str, typer.Option("--against", help="The backend to compare with.")] = "numpy",
    device: options.Device = "auto",
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    repeat: Annotated[int, typer.Option("--repeat", help="Rounds; the median counts.")] = 15,
    json: options.Json = False,
) -> None:
    """Time two backends in turns, check what they computed, and give both speeds and their ratio."""
    from nnkit.plugins import Registry
    from nnkit.verify.gemm_bench import bench_gemm
    from nnkit.verify.sizes import check_options

    check_options(m, n, k, dtype, 1, repeat=repeat)
    registry = Registry.discover()
    first, second = _open(registry, backend, device, dtype), _open(registry, against, "auto", dtype)
    one, other = bench_gemm((first, second), m, n, k, dtype, repeat)
    document: dict[str, Any] = {
        "m": m,
        "n": n,
        "k": k,
        "dtype": dtype,
        "backend": backend,
        "device": first.device.name,
        "against": against,
        "against_device": second.device.name,
        "gflops": one.gflops,
        "against_gflops": other.gflops,
        "ratio": one.gflops / other.gflops,
        "threads": _threads(),
        "repeats": repeat,
        "blas": _blas(),
    }
    if json:
        options.print_json(document)
        return
    print(
        f"{m} x {n} x {k} {dtype}, median of {repeat}: {backend} on {first.device.name} "
        f"{one.gflops:.4g} GFLOP/s, {against} on {second.device.name} {other.gflops:.4g} GFLOP/s, "
        f"ratio {document['ratio']:.3g}"
    )


def _open(registry: "Registry", name: str, device: str, dtype: str) -> "Competitor":
    """The backend of that name, on the device that was asked for; "auto": on one that it supports."""
    from nnkit.device import open_device_for
    from nnkit.plugins import check_serves
    from nnkit.verify.gemm_bench import Competitor

    backend = registry.gemm(name)
    opened, _ = open_device_for(backend.devices, device)
    check_serves(backend, opened.name, dtype)
    return Competitor(backend, opened)


def _threads() -> int:
    """The threads that NumPy's BLAS uses; if it does not say, the cores that this process may use."""
    from threadpoolctl import threadpool_info

    from nnkit.verify.roofline import cores

    pools = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    return max(pools, default=cores())


def _blas() -> str | None:
    """The processor for which NumPy's BLAS has chosen its kernels; None if it does not say."""
    from threadpoolctl import threadpool_info

    return next((pool.get("architecture") for pool in threadpool_info() if pool["user_api"] == "blas"), None)
