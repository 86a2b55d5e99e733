"""What the backends with kernels share: the shapes of a product, and kernels compiled once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from nnkit.contracts import C_NAMES, Device, DeviceArray, Kernel


@dataclass(frozen=True)
class Problem:
    """The product C <- op(A) op(B): C is (m, n), and each sum has k terms."""

    m: int
    n: int
    k: int
    options: tuple[str, ...]
    """The compiler's options: element type and transpositions."""

    @classmethod
    def of(cls, a: DeviceArray, b: DeviceArray, c: DeviceArray, trans_a: bool, trans_b: bool) -> "Problem":
        """The problem of these operands; raises ValueError where shapes or element types disagree."""
        k, m = a.shape if trans_a else a.shape[::-1]
        n, terms = b.shape if trans_b else b.shape[::-1]
        if terms != k or c.shape != (m, n):
            left, right = "A^T" if trans_a else "A", "B^T" if trans_b else "B"
            raise ValueError(
                f"C <- {left} {right} with A {a.shape}, B {b.shape} and C {c.shape}: give fitting shapes"
            )
        if not a.dtype == b.dtype == c.dtype or c.dtype.name not in C_NAMES:
            raise ValueError(f"A is {a.dtype}, B {b.dtype}, C {c.dtype}: give float32 or float64 for all")
        options = f"-DREAL={C_NAMES[c.dtype.name]}", f"-DTRANS_A={trans_a:d}", f"-DTRANS_B={trans_b:d}"
        return cls(m, n, k, options)

    @property
    def empty(self) -> bool:
        """Whether C has no elements: then there is nothing to compute."""
        return not (self.m and self.n)

    @property
    def sizes(self) -> tuple[np.int32, np.int32, np.int32]:
        """m, n and k as the kernels' parameters."""
        return np.int32(self.m), np.int32(self.n), np.int32(self.k)


class KernelCache:
    """The kernels of one file of cuda_src/, compiled once for each device and set of options."""

    def __init__(self, file: str):
        self._file = file
        self._kernels: WeakKeyDictionary[Device[Any], dict[tuple[str, Sequence[str]], Kernel]] = (
            WeakKeyDictionary()
        )

    def get(self, device: Device[Any], name: str, options: tuple[str, ...]) -> Kernel:
        """The kernel `name`, compiled with these options."""
        kernels = self._kernels.get(device)
        if kernels is None:
            kernels = self._kernels[device] = {}
        kernel = kernels.get((name, options))
        if kernel is None:
            module = device.compile(_folder() / self._file, options=options)
            kernel = kernels[name, options] = module[name]
        return kernel


@cache
def _folder() -> Path:
    return Path(str(resources.files("nnkit_cuda_src")))
