"""Code that NVRTC 13.5 translates wrongly for some architectures: why `virtual` compiles for another.

The right answers are worked out in Python. A wrong one that turns right makes its test fail (XPASS): then a
newer NVRTC has mended it, and `nnkit.device.virtual.ARCH` may be chosen anew.
"""

import numpy as np
import pytest

from nnkit import open_device
from nnkit.device.virtual import ARCH

WRONG = ("compute_75", "compute_80", "compute_90")
RIGHT = ("compute_100", "compute_120")

# An array in registers, read at an index that a condition has made good.
PROBES = {
    "falling": ("int", "1, 2, 3, 4", "-2 * t + 4"),
    "float": ("float", "1, 2, 3, 4", "-2 * t + 4"),
    "longer": ("int", "1, 2, 3, 4, 5, 6", "-2 * t + 6"),
    "shorter": ("float", "1, 2", "-2 * t + 2"),
}


def answers(kind: str, arch: str | None) -> tuple[list[float], list[float]]:
    """What the kernel gives, and what is right."""
    element, content, index = PROBES[kind]
    numbers = [int(number) for number in content.split(",")]
    source = f"""
    extern "C" __global__ void probe({element} *out) {{
        int t = threadIdx.x;
        {element} a[{len(numbers)}] = {{{content}}};
        int i = {index};
        {element} r = 0;
        if (i >= 0 && i < {len(numbers)}) r = a[i];
        out[t] = r;
    }}
    """
    device = open_device("virtual")
    out = device.zeros((3,), np.dtype({"int": np.int32, "float": np.float32}[element]))
    device.compile(source, name="probe.cu", arch=arch)["probe"].launch(1, 3, (out,))
    indices = [eval(index, {"t": t}) for t in range(3)]
    return out.download().tolist(), [numbers[i] if 0 <= i < len(numbers) else 0 for i in indices]


@pytest.mark.parametrize("kind", PROBES)
@pytest.mark.parametrize("arch", [None, *RIGHT])
def test_what_virtual_compiles_for_is_translated_rightly(kind: str, arch: str | None) -> None:
    found, right = answers(kind, arch)
    assert found == right


def test_the_default_is_one_of_those() -> None:
    assert ARCH in RIGHT


@pytest.mark.xfail(strict=True, reason="NVRTC 13.5 reads the array where the condition does not hold")
@pytest.mark.parametrize("arch", WRONG)
@pytest.mark.parametrize("kind", PROBES)
def test_nvrtc_is_wrong_for_older_architectures(kind: str, arch: str) -> None:
    found, right = answers(kind, arch)
    assert found == right
