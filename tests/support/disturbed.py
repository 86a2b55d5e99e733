"""Fault injection: the text of a GEMM backend that does something bad in a chosen call on chosen ranks."""

from collections.abc import Callable

# It multiplies correctly. In call $CALL on the ranks in $WHO it runs the statement that a test appends.
DISTURBED = """
import os, signal, time
from nnkit.errors import UsageError
from nnkit.hookspecs import hookimpl

class Disturbed:
    name = "disturbed"
    devices = frozenset({"cpu"})
    dtypes = frozenset({"float32", "float64"})
    calls = 0

    def gemm(self, a, b, c, *, alpha=1.0, beta=0.0, trans_a=False, trans_b=False):
        left, right = (x.host.T if t else x.host for x, t in ((a, trans_a), (b, trans_b)))
        before = beta * c.host if beta else 0
        c.host[...] = alpha * (left @ right) + before
        self.calls += 1
        rank = int(os.environ.get("OMPI_COMM_WORLD_RANK", "0"))
        if str(rank) in os.environ["WHO"] and self.calls == int(os.environ["CALL"]):
            disturb(b, rank)

@hookimpl
def nnkit_gemm_backends():
    return [Disturbed()]

def disturb(b, rank):
    """

Disturb = Callable[..., dict[str, str]]
