"""`nnkit info`: versions and devices, what is missing, and how to get it."""

import contextlib
import os
import platform
import re
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from nnkit.cli import options

READY, MISSING = "ready", "not available"

VECTORS = (
    ("avx512f", "AVX-512", 512),
    ("avx2", "AVX2", 256),
    ("avx", "AVX", 256),
    ("neon", "NEON", 128),
    ("sse2", "SSE2", 128),
)
"""Vector instructions, widest first: LLVM's name, the usual name, and bits of a vector."""


def info(json: options.Json = False) -> None:
    """Show versions and devices, what is missing and how to get it."""
    document = collect()
    if json:
        options.print_json(document)
        return
    for title in ("versions", "processor", "cache"):
        print(title)
        for name, value in document[title].items():
            print(f"  {name:<20} {value if value is not None else 'none'}")
    print("devices")
    for device in document["devices"]:
        print(f"  {device['name']:<20} {device['status']}: {device['detail']}")
    print("ranks")
    print(f"  {'mpiexec':<20} {document['mpi']['status']}: {document['mpi']['detail']}")
    for advice in document["advice"]:
        print(f"advice: {advice}")


def collect() -> dict[str, Any]:
    """The report as a JSON document."""
    versions = {"nnkit": _version("nnkit"), "python": platform.python_version()}
    versions |= {package: _version(package) for package in _dependencies()}
    missing = [package for package, found in versions.items() if found is None]
    versions["NVRTC"] = _nvrtc_version()
    processor, advice = _processor()
    cache = _cache()
    if cache["refused"]:
        advice.append(f"compiled kernels are not kept: {cache['refused']}")
    advice += [f"{package} is missing: pip install {package}" for package in missing]
    cpu = {"name": "cpu", "status": READY, "detail": "NumPy, no kernels"}
    return {
        "versions": versions,
        "processor": processor,
        "cache": cache,
        "devices": [cpu, _virtual(), *_gpus()],
        "mpi": _mpi(),
        "advice": advice,
    }


def _virtual() -> dict[str, Any]:
    """The row of the device virtual: its threads, and the vectors that they compute with."""
    from nnkit.errors import NnkitError

    try:
        from llvmlite import binding

        from nnkit.device import open_device

        device = open_device("virtual")
    except (NnkitError, ImportError) as error:
        return {"name": "virtual", "status": MISSING, "detail": _short(error)}
    threads: int = getattr(device, "threads", 1)
    device.close()
    features = binding.get_host_cpu_features()
    vectors = [(name, bits) for feature, name, bits in VECTORS if features.get(feature)]
    name, bits = vectors[0] if vectors else ("no vector instructions", None)
    processor = binding.get_host_cpu_name()
    return {
        "name": "virtual",
        "status": READY,
        "detail": f"{threads} thread{'s' * (threads > 1)} on {processor} with {name}",
        "threads": threads,
        "processor": processor,
        "vector_bits": bits,
    }


def _gpus() -> list[dict[str, Any]]:
    """A row for each GPU, or one that says why there is none."""
    from nnkit.device.cuda import driver as cuda_driver
    from nnkit.errors import NnkitError

    try:
        count = cuda_driver.check(cuda_driver.load().cuDeviceGetCount(), "counting GPUs")
    except NnkitError as error:
        return [{"name": "cuda", "status": MISSING, "detail": _short(error)}]
    if not count:
        return [{"name": "cuda", "status": MISSING, "detail": "there is no GPU"}]
    return [_gpu(number) for number in range(count)]


def _gpu(number: int) -> dict[str, Any]:
    from nnkit.device.cuda import CudaDevice
    from nnkit.errors import NnkitError

    name = f"cuda:{number}"
    try:
        device = CudaDevice(number)
    except NnkitError as error:
        return {"name": name, "status": MISSING, "detail": _short(error)}
    found = device.properties
    device.close()
    capability = ".".join(map(str, found.capability))
    return {
        "name": name,
        "status": READY,
        "detail": f"{found.description}, compute capability {capability}, driver for CUDA {found.driver}",
        "description": found.description,
        "capability": capability,
        "memory_bytes": found.memory_bytes,
    }


def _mpi() -> dict[str, Any]:
    """The MPI with which `nnkit train --ranks` starts ranks."""
    from nnkit.comm.mpiexec import find_mpi
    from nnkit.errors import UsageError

    try:
        found = find_mpi()
    except UsageError as error:
        return {"status": MISSING, "detail": str(error), "path": None, "elastic": False}
    whose = {"open": "Open MPI", "hydra": "MPICH or Intel MPI"}.get(found.kind, "of an unknown kind")
    elastic = "with" if found.survives else "without"
    return {
        "status": READY,
        "detail": f"{found.path}, {whose}, {elastic} --elastic",
        "path": str(found.path),
        "elastic": found.survives,
    }


def _short(error: Exception) -> str:
    """An error's line without its beginning and without what stands in brackets."""
    return re.sub(r" \(.*\)", "", str(error)).removeprefix("no device cuda: ")


def _cache() -> dict[str, Any]:
    """Where compiled kernels are kept, and their number and size."""
    from nnkit.device.cache.disk import cache_folder
    from nnkit.device.cache.private_folder import refusal

    folder = cache_folder("")
    if folder is None:
        return {"folder": None, "files": 0, "bytes": 0, "refused": None}
    # The cache checks each of its folders before use; so does this.
    refused = next(filter(None, map(refusal, (folder, folder / "ptx", folder / "native"))), None)
    sizes = []
    for path in folder.rglob("*"):
        # Another process may remove the file meanwhile.
        with contextlib.suppress(OSError):
            if path.is_file():
                sizes.append(path.stat().st_size)
    return {"folder": str(folder), "files": len(sizes), "bytes": sum(sizes), "refused": refused}


def _nvrtc_version() -> str | None:
    """As the library says: it need not come from a wheel whose version could be asked for."""
    try:
        from cuda.bindings import nvrtc

        _, major, minor = nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError, OSError):
        return None
    return f"{major}.{minor}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _dependencies() -> list[str]:
    """The packages that nnkit needs, from its own metadata."""
    names = [requirement for requirement in requires("nnkit") or [] if "extra ==" not in requirement]
    return sorted(re.split(r"[^A-Za-z0-9_.-]", name, maxsplit=1)[0] for name in names)


def _processor() -> tuple[dict[str, Any], list[str]]:
    """The BLAS that NumPy multiplies with, and advice if an environment variable slows it down."""
    import numpy  # noqa: F401  loads the BLAS
    from threadpoolctl import threadpool_info

    advice = []
    blas = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    processor: dict[str, Any] = {"cores": os.cpu_count()}
    for pool in blas:
        kernels = pool.get("architecture") or "unknown"
        processor["BLAS"] = f"{pool['internal_api']} {pool['version']}, kernels for {kernels}"
        processor["threads"] = pool["num_threads"]
    pinned = os.environ.get("OPENBLAS_CORETYPE")
    if pinned:
        advice.append(
            f"OPENBLAS_CORETYPE={pinned} fixes the BLAS kernels: unset it and compare, "
            "they may be twice as fast on this processor"
        )
    return processor, advice
