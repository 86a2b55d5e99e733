"""The GEMM backend `tiled`: tiles in shared memory and registers, see cuda_src/gemm_tiled.cu."""

from dataclasses import dataclass
from functools import cache

from nnkit.contracts import ACTIVATIONS, DeviceArray, GemmBackend
from nnkit.hookspecs import hookimpl

from .kernels import KernelCache, Problem

SIDE = 16
"""Threads along each side of a block; also the vector width of the device `virtual`."""

TILE_K = 16
"""How many terms of the sums are in shared memory at a time."""


@dataclass(frozen=True)
class Tile:
    """Rows and columns of C that one thread computes; its block computes SIDE times as many of each."""

    thread_m: int
    thread_n: int

    @property
    def options(self) -> tuple[str, ...]:
        """The compiler's options for this tile."""
        return (
            f"-DTILE_M={SIDE * self.thread_m}",
            f"-DTILE_N={SIDE * self.thread_n}",
            f"-DTILE_K={TILE_K}",
            f"-DTHREAD_M={self.thread_m}",
            f"-DTHREAD_N={self.thread_n}",
        )

    def blocks(self, m: int, n: int) -> int:
        """How many tiles cover C (m, n)."""
        return -(-m // (SIDE * self.thread_m)) * -(-n // (SIDE * self.thread_n))


BUSY = 132
"""Blocks that keep a large GPU busy: one for each multiprocessor (an H100 has 132)."""

TILES = {
    # They must fit into 32 vector registers: the sums, a row of B and one value of A (doubles take two each).
    ("virtual", "float32"): (
        *(Tile(4, 4), Tile(5, 4), Tile(8, 3), Tile(3, 7)),
        *(Tile(4, 2), Tile(8, 1), Tile(4, 1), Tile(1, 4), Tile(1, 1)),
    ),
    ("virtual", "float64"): (Tile(4, 2), Tile(4, 1), Tile(1, 4), Tile(1, 1)),
    ("cuda", "float32"): (Tile(8, 8), Tile(4, 4), Tile(2, 2), Tile(4, 1), Tile(1, 4), Tile(1, 1)),
    ("cuda", "float64"): (Tile(4, 4), Tile(2, 2), Tile(4, 1), Tile(1, 4), Tile(1, 1)),
}
"""Device and element type -> the tiles to choose from: few, because each one is another compilation."""


class TiledGemm:
    """A number is read from global memory once a tile, and from shared memory once for several sums."""

    name = "tiled"
    devices = frozenset({"virtual", "cuda"})
    dtypes = frozenset({"float32", "float64"})
    fused_activations = frozenset(ACTIVATIONS)

    def __init__(self) -> None:
        self._kernels = KernelCache("gemm_tiled.cu")

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
        tile = choose_tile(c.device.name, c.dtype.name, problem.m, problem.n, trans_b)
        kernel = self._kernels.get(c.device, "gemm_tiled", problem.options + tile.options)
        real = c.dtype.type
        arguments = (*problem.sizes, real(alpha), a, b, real(beta), c)
        kernel.launch(tile.blocks(problem.m, problem.n), (SIDE, SIDE), arguments)

    def gemm_bias_activation(
        self,
        a: DeviceArray,
        b: DeviceArray,
        c: DeviceArray,
        bias: DeviceArray,
        *,
        activation: str,
        trans_b: bool = False,
    ) -> None:
        """Overwrite c (M, N) with activation(A op(B) + bias); raises ValueError for shapes that disagree."""
        problem = Problem.of(a, b, c, False, trans_b)
        if bias.shape != (problem.n,) or bias.dtype != c.dtype:
            raise ValueError(f"bias {bias.dtype} {bias.shape} for C {c.dtype} {c.shape}: give one a column")
        if activation not in self.fused_activations:
            raise ValueError(f"unknown activation {activation!r}: give one of {', '.join(ACTIVATIONS)}")
        if problem.empty:
            return
        tile = choose_tile(c.device.name, c.dtype.name, problem.m, problem.n, trans_b)
        options = (*problem.options, *tile.options, f"-DACTIVATION={activation.upper()}")
        kernel = self._kernels.get(c.device, "gemm_tiled_activation", options)
        kernel.launch(tile.blocks(problem.m, problem.n), (SIDE, SIDE), (*problem.sizes, a, b, bias, c))


@cache
def choose_tile(device: str, dtype: str, m: int, n: int, trans_b: bool) -> Tile:
    """The tile for a product (m, n). Large tiles reuse numbers more often; small ones waste less at edges."""
    return min(TILES[device, dtype], key=lambda tile: _cost(device, tile, m, n, trans_b))


def _cost(device: str, tile: Tile, m: int, n: int, trans_b: bool) -> float:
    """Time in arbitrary units: a thread's multiply-adds and reads of shared memory per term, times the tiles.

    On `virtual`, transposing a column of B into shared memory is a scatter, which takes as long as 2.5
    multiply-adds. (Measured with one thread, for the tiles above, at the shapes of 784-100-10 and 784-1000-10
    with batch 800.)
    """
    i, j = tile.thread_m, tile.thread_n
    blocks = tile.blocks(m, n)
    # A GPU computes BUSY tiles at the same time: with fewer, a part of it is idle.
    rounds = max(blocks / BUSY, 1) if device == "cuda" else blocks
    turning = 2.5 * j if trans_b and device == "virtual" else 0.0
    return rounds * (i * j + i + j + turning)


@hookimpl
def nnkit_gemm_backends() -> list[GemmBackend[DeviceArray]]:
    """Offer `tiled`."""
    return [TiledGemm()]
