"""An upper bound on this machine's speed of multiplication: a measurement above it is wrong.

The bound is generous, so that it never refuses a true figure. It still finds the usual mistakes: work that
was skipped, and a clock that stopped before the work was done. (The horizontal part of the roofline model of
Williams, Waterman and Patterson, 2009.)
"""

import math
import os
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnkit.contracts import Array, Device

FASTEST_CLOCK = 6.0
"""GHz, used where the system does not say its own: no processor runs faster on all cores."""

# float32 operations per core and cycle: two fused multiply-add units as wide as the widest vectors, two
# operations a lane. The first of these that is a flag in /proc/cpuinfo counts.
FLOPS_PER_CYCLE = (
    ("avx512f", 64.0),
    ("avx2", 32.0),
    ("avx", 16.0),
    ("sve", 128.0),
    ("asimd", 32.0),
    ("sse2", 16.0),
)

GPU_FLOPS_PER_CYCLE = {4: 128 * 2 * 8, 8: 64 * 2 * 4}
"""Bytes of an element -> operations per multiprocessor and cycle: 128 float32 or 64 float64 lanes, two each,
times 8 or 4 because tensor cores are faster (a float32 product may be computed from tf32 products)."""


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
    """The highest clock of any core. ("cpu MHz" in /proc/cpuinfo is the present one, which is no bound.)"""
    found = [_read(file) for file in folder.glob("cpu[0-9]*/cpufreq/cpuinfo_max_freq")]
    return max((int(text) / 1e6 for text in found if text.strip().isdigit()), default=FASTEST_CLOCK)


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8", "replace")
    except OSError:
        return ""


def _gpu_peak(size: int) -> float:
    """The peak of the GPU whose context is current, from its properties."""
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
