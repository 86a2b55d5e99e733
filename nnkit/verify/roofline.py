"""How fast can this machine multiply at most? An upper bound: whoever measures more has measured wrongly.

It is generous on purpose. It must never refuse an honest figure, and still catches what cheats usually look
like: work that was skipped, or a clock that was stopped before the work was done.
"""

import math
import os
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnkit.contracts import Array, Device

FASTEST_CLOCK = 6.0
"""GHz: no processor on the market runs faster on all cores; used where the system does not tell."""

# Floating-point operations of a core in a cycle, in float32: two fused multiply-add units as wide as the
# widest vectors, two operations each. The first of these flags in /proc/cpuinfo decides.
FLOPS_PER_CYCLE = (
    ("avx512f", 64.0),
    ("avx2", 32.0),
    ("avx", 16.0),
    ("sve", 128.0),
    ("asimd", 32.0),
    ("sse2", 16.0),
)

GPU_FLOPS_PER_CYCLE = {4: 128 * 2 * 8, 8: 64 * 2 * 4}
"""Bytes of an element -> operations of a multiprocessor in a cycle: 128 float32 or 64 float64 lanes, two
each, times what tensor cores are faster at most (a float32 product may be put together from tf32 ones)."""


def peak_gflops(device: Device[Array], dtype: npt.DTypeLike) -> float:
    """The most GFLOP/s that `device` can reach in `dtype`; infinite where nothing is known about it."""
    size = np.dtype(dtype).itemsize
    return _gpu_peak(size) if device.name == "cuda" else _cpu_peak(size)


def cores() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_peak(size: int) -> float:
    per_cycle = _flops_per_cycle(_read(Path("/proc/cpuinfo")))
    return cores() * _clock_ghz(Path("/sys/devices/system/cpu")) * per_cycle * 4 / size


def _flops_per_cycle(cpuinfo: str) -> float:
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    flags = set(line[1].split()) if line else set()
    return next((flops for flag, flops in FLOPS_PER_CYCLE if flag in flags), math.inf)


def _clock_ghz(folder: Path) -> float:
    """The highest clock of any core. The "cpu MHz" of /proc/cpuinfo is that of the moment: no bound."""
    found = [_read(file) for file in folder.glob("cpu[0-9]*/cpufreq/cpuinfo_max_freq")]
    return max((int(text) / 1e6 for text in found if text.strip().isdigit()), default=FASTEST_CLOCK)


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8", "replace")
    except OSError:
        return ""


def _gpu_peak(size: int) -> float:
    """From the properties of the GPU whose context is current."""
    from cuda.bindings import driver

    error, gpu = driver.cuCtxGetDevice()
    if error != driver.CUresult.CUDA_SUCCESS:
        return math.inf
    attribute = driver.CUdevice_attribute
    wanted = (attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, attribute.CU_DEVICE_ATTRIBUTE_CLOCK_RATE)
    (failed_1, multiprocessors), (failed_2, kilohertz) = (
        driver.cuDeviceGetAttribute(what, gpu) for what in wanted
    )
    if failed_1 != driver.CUresult.CUDA_SUCCESS or failed_2 != driver.CUresult.CUDA_SUCCESS:
        return math.inf
    return float(multiprocessors * kilohertz / 1e6 * GPU_FLOPS_PER_CYCLE[size])
