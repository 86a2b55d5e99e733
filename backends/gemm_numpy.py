"""The GEMM backend `numpy`: the BLAS of the installed NumPy, on the device `cpu`."""

import numpy as np

from nnkit.contracts import GemmBackend, HostArray
from nnkit.hookspecs import hookimpl


class NumpyGemm:
    """np.matmul into the output, then scaling, where alpha is not 1 or beta not 0."""

    name = "numpy"
    devices = frozenset({"cpu"})
    dtypes = frozenset({"float32", "float64"})

    def gemm(
        self,
        a: HostArray,
        b: HostArray,
        c: HostArray,
        *,
        alpha: float = 1.0,
        beta: float = 0.0,
        trans_a: bool = False,
        trans_b: bool = False,
    ) -> None:
        """Overwrite c with alpha op(A) op(B) + beta C, see `nnkit.contracts.GemmBackend`."""
        left = a.host.T if trans_a else a.host
        right = b.host.T if trans_b else b.host
        out = c.host
        if beta == 0.0:
            np.matmul(left, right, out=out)
            if alpha != 1.0:
                np.multiply(out, out.dtype.type(alpha), out=out)
        else:
            product = np.matmul(left, right)
            np.multiply(product, out.dtype.type(alpha), out=product)
            np.multiply(out, out.dtype.type(beta), out=out)
            np.add(out, product, out=out)


@hookimpl
def nnkit_gemm_backends() -> list[GemmBackend[HostArray]]:
    """Offer `numpy`."""
    return [NumpyGemm()]
