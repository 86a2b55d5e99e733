"""`nnkit info`: what is here, what is missing, and how to get it."""

import os
import platform
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from nnkit.cli import options


def info(json: options.Json = False) -> None:
    """Show versions and devices, what is missing and how to get it."""
    document = collect()
    if json:
        options.print_json(document)
        return
    for title, rows in (("versions", document["versions"]), ("processor", document["processor"])):
        print(title)
        for name, value in rows.items():
            print(f"  {name:<14} {value if value is not None else 'not installed'}")
    print("devices")
    for device in document["devices"]:
        print(f"  {device['name']:<14} {device['status']}")
    for advice in document["advice"]:
        print(f"advice: {advice}")


def collect() -> dict[str, Any]:
    """The whole report."""
    from nnkit.device import DEVICES

    versions = {"nnkit": _version("nnkit"), "python": platform.python_version()}
    versions |= {package: _version(package) for package in _dependencies()}
    missing = [package for package, found in versions.items() if found is None]
    processor, advice = _processor()
    advice += [f"{package} is missing: pip install {package}" for package in missing]
    devices = [{"name": name, "status": "ready"} for name in DEVICES]
    return {"versions": versions, "processor": processor, "devices": devices, "advice": advice}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _dependencies() -> list[str]:
    """What nnkit needs to run, by its own metadata."""
    import re

    names = [requirement for requirement in requires("nnkit") or [] if "extra ==" not in requirement]
    return sorted(re.split(r"[^A-Za-z0-9_.-]", name, maxsplit=1)[0] for name in names)


def _processor() -> tuple[dict[str, Any], list[str]]:
    """The BLAS that NumPy multiplies with, and a word where the environment holds it back."""
    import numpy  # noqa: F401  loads the BLAS that is looked for
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
