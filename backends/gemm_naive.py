"""The GEMM backend `naive`: one thread an element of C (cuda_src/gemm_naive.cu). To learn from, not fast."""

from nnkit.contracts import DeviceArray, GemmBackend
from nnkit.hookspecs import hookimpl

from .kernels import KernelCache, Problem

SIDE = 16
"""Height and width of a block of threads, and of the tile of C that it computes."""

LARGEST_Y = 65535
"""The most blocks along y that a grid may have. For more rows, each thread of the kernel takes several."""


class NaiveGemm:
    """The textbook triple loop, its outer two loops spread over threads."""

    name = "naive"
    devices = frozenset({"virtual", "cuda"})
    dtypes = frozenset({"float32", "float64"})

    def __init__(self) -> None:
        self._kernels = KernelCache("gemm_naive.cu")

    def gemm(
        self,
        a: DeviceArray,
        b: DeviceArray,
        c: DeviceArray,
        *,
        alpha: float = 1.0,
        beta: float = 0.0,
        trans_a: bool = False,
        trans_b: bool = False,
    ) -> None:
        """Overwrite c with alpha op(A) op(B) + beta C; raises ValueError for shapes that disagree."""
        problem = Problem.of(a, b, c, trans_a, trans_b)
        if problem.empty:
            return
        kernel = self._kernels.get(c.device, "gemm_naive", problem.options)
        grid = -(-problem.n // SIDE), min(-(-problem.m // SIDE), LARGEST_Y)
        real = c.dtype.type
        kernel.launch(grid, (SIDE, SIDE), (*problem.sizes, real(alpha), a, b, real(beta), c))


@hookimpl
def nnkit_gemm_backends() -> list[GemmBackend[DeviceArray]]:
    """Offer `naive`."""
    return [NaiveGemm()]
