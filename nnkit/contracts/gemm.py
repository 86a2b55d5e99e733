"""A matrix product."""

from typing import Protocol

from nnkit.contracts.devices import ArrayT_contra

DtypeName = str
"""A dtype by name: "float32" or "float64"."""

C_NAMES = {"float32": "float", "float64": "double"}
"""The element types that kernels are compiled for, and what C++ calls them."""


class GemmBackend(Protocol[ArrayT_contra]):
    """A matrix product: C <- alpha op(A) op(B) + beta C, row-major, any M, N, K, zero included.

    One for the device `cpu` is a `GemmBackend[HostArray]`, one that launches kernels a
    `GemmBackend[DeviceArray]`; `GemmBackend[Array]` is one of which nobody asks, given its devices' arrays.
    """

    @property
    def name(self) -> str:
        """What `--backend` calls it."""

    @property
    def devices(self) -> frozenset[str]:
        """The names of the devices it serves."""

    @property
    def dtypes(self) -> frozenset[DtypeName]:
        """The element types it serves; it accumulates in the same precision."""

    def gemm(
        self,
        a: ArrayT_contra,
        b: ArrayT_contra,
        c: ArrayT_contra,
        *,
        alpha: float = 1.0,
        beta: float = 0.0,
        trans_a: bool = False,
        trans_b: bool = False,
    ) -> None:
        """Overwrite c (M, N); op(X) is X or, if `trans_x`, its transpose. With beta = 0, c is not read.

        a, b and c are arrays of one of `devices` and one of `dtypes` (on `cpu`: `HostArray`); a and b are
        never written. A backend may also declare `fused_activations`, see `FusedGemmBackend`.
        """


class FusedGemmBackend(GemmBackend[ArrayT_contra], Protocol[ArrayT_contra]):
    """A GEMM that can add a bias and apply an activation before it writes C, saving one pass over it."""

    @property
    def fused_activations(self) -> frozenset[str]:
        """The activations that `gemm_bias_activation` knows."""

    def gemm_bias_activation(
        self,
        a: ArrayT_contra,
        b: ArrayT_contra,
        c: ArrayT_contra,
        bias: ArrayT_contra,
        *,
        activation: str,
        trans_b: bool = False,
    ) -> None:
        """Overwrite c (M, N) with activation(A op(B) + bias); bias is (N,), added to every row."""
