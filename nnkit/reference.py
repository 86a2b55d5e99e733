"""Every operation of a training step as a NumPy function, for any float dtype.

In float64 these are the oracle that kernels and backends are compared with; in float32 they are what the
device `cpu` runs. Matrices are row-major, one sample a row: B samples, n features. `out` names where a result
goes and may be the input itself unless the function says otherwise; without it a new array is made. Source:
Goodfellow, Bengio and Courville, Deep Learning (2016), sections 6.2, 6.5 and 8.3.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]
IndexArray = npt.NDArray[np.intp]


def gemm(
    a: FloatArray,
    b: FloatArray,
    c: FloatArray,
    *,
    alpha: float = 1.0,
    beta: float = 0.0,
    trans_a: bool = False,
    trans_b: bool = False,
) -> FloatArray:
    """alpha op(A) op(B) + beta C as a new array (M, N); with beta = 0 the content of C is not used."""
    left = a.T if trans_a else a
    right = b.T if trans_b else b
    product = c.dtype.type(alpha) * (left @ right)
    return product if beta == 0.0 else product + c.dtype.type(beta) * c


def gather_images(
    images: npt.NDArray[np.uint8],
    index: IndexArray,
    out: FloatArray,
    work: npt.NDArray[np.uint8] | None = None,
) -> FloatArray:
    """Rows `index` of images (N, pixels) as correctly rounded floats in [0, 1], into out (B, pixels).

    Gathering bytes moves a quarter of the memory that floats would. `work` is a buffer of out's shape.
    """
    # mode="clip" writes straight into the buffer; "raise" would go through a temporary of the same size.
    work = np.take(images, index, axis=0, out=work, mode="clip")
    np.copyto(out, work)
    return np.divide(out, out.dtype.type(255), out=out)


def sigmoid(z: FloatArray, out: FloatArray | None = None) -> FloatArray:
    """1 / (1 + exp(-z)). Where exp overflows the result is 0, which is the correctly rounded one."""
    with np.errstate(over="ignore"):
        out = np.negative(z, out=out)
        np.exp(out, out=out)
        np.add(out, out.dtype.type(1), out=out)
        return np.reciprocal(out, out=out)


def tanh(z: FloatArray, out: FloatArray | None = None) -> FloatArray:
    """The hyperbolic tangent."""
    return np.tanh(z, out=out)


def relu(z: FloatArray, out: FloatArray | None = None) -> FloatArray:
    """max(z, 0); a NaN stays a NaN."""
    return np.maximum(z, z.dtype.type(0), out=out)


ACTIVATIONS = {"sigmoid": sigmoid, "tanh": tanh, "relu": relu}


def bias_activation(
    z: FloatArray, bias: FloatArray, activation: str | None, out: FloatArray | None = None
) -> FloatArray:
    """activation(z + bias) for z (B, n), bias (n,); with None the sum alone."""
    out = np.add(z, bias, out=out)
    return out if activation is None else ACTIVATIONS[activation](out, out=out)


def activation_backward(
    delta: FloatArray,
    a: FloatArray,
    activation: str,
    out: FloatArray | None = None,
    work: FloatArray | None = None,
) -> FloatArray:
    """delta * activation'(z). The derivative is computed from the activation's output a, so z is not kept.

    sigmoid' = a (1 - a), tanh' = 1 - a^2, relu' = [a > 0]. `work` is a buffer of a's shape, and must be
    neither delta nor a.
    """
    one = a.dtype.type(1)
    if activation == "sigmoid":
        work = np.subtract(one, a, out=work)
        np.multiply(work, a, out=work)
    elif activation == "tanh":
        work = np.multiply(a, a, out=work)
        np.subtract(one, work, out=work)
    elif activation == "relu":
        # sign(a) is 1 where the unit was active and 0 elsewhere, since a >= 0.
        work = np.sign(a, out=work)
    else:
        raise ValueError(f"unknown activation {activation!r}")
    return np.multiply(delta, work, out=out)


def softmax(logits: FloatArray, out: FloatArray | None = None) -> FloatArray:
    """exp(z) / sum exp(z) along each row of (B, classes), the row's maximum subtracted first."""
    shifted: FloatArray = np.subtract(logits, logits.max(axis=1, keepdims=True), out=out)
    np.exp(shifted, out=shifted)
    shifted /= shifted.sum(axis=1, keepdims=True)
    return shifted


def cross_entropy(logits: FloatArray, labels: IndexArray) -> FloatArray:
    """Each sample's loss log(sum exp(z)) - z[label], shape (B,); logits (B, classes)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels])


def cross_entropy_gradient(logits: FloatArray, labels: IndexArray, divisor: int) -> FloatArray:
    """(softmax(z) - one-hot(label)) / divisor, shape (B, classes)."""
    gradient = softmax(logits)
    gradient[np.arange(len(labels)), labels] -= 1
    gradient /= gradient.dtype.type(divisor)
    return gradient


def softmax_cross_entropy_columns(
    logits: FloatArray, labels: IndexArray, losses: FloatArray, divisor: int, work: "ColumnWork"
) -> None:
    """`cross_entropy` into `losses` (B,) and its gradient over `logits` (B, classes), without temporaries.

    There are few classes and many samples. So the work is done on a transposed copy (classes, B), where
    reductions run over long contiguous rows: about three times as fast as along rows of ten.
    """
    z, row = work.transposed, work.row
    batch = z.shape[1]
    np.copyto(z, logits.T)
    np.maximum.reduce(z, axis=0, out=row)
    np.subtract(z, row, out=z)
    # The positions of the labels' logits in the flattened z.
    np.multiply(labels, batch, out=work.flat)
    np.add(work.flat, work.sample, out=work.flat)
    flat_z = work.flat_transposed
    np.take(flat_z, work.flat, out=losses, mode="clip")
    np.exp(z, out=z)
    np.add.reduce(z, axis=0, out=row)
    np.divide(z, row, out=z)
    np.log(row, out=row)
    np.subtract(row, losses, out=losses)
    np.take(flat_z, work.flat, out=row, mode="clip")
    np.subtract(row, row.dtype.type(1), out=row)
    flat_z.put(work.flat, row, mode="clip")
    np.multiply(z, z.dtype.type(1 / divisor), out=z)
    np.copyto(logits, z.T)


class ColumnWork:
    """The buffers of `softmax_cross_entropy_columns` for logits of one shape (B, classes) and dtype."""

    def __init__(self, logits: FloatArray):
        batch, classes = logits.shape
        self.transposed: FloatArray = np.empty((classes, batch), logits.dtype)
        self.flat_transposed = self.transposed.reshape(-1)
        self.row: FloatArray = np.empty(batch, logits.dtype)
        self.flat: IndexArray = np.empty(batch, np.intp)
        self.sample: IndexArray = np.arange(batch, dtype=np.intp)


def count_correct(logits: FloatArray, labels: IndexArray) -> int:
    """How many rows of (B, classes) are largest at their label; of equal logits the first counts."""
    return int(np.count_nonzero(logits.argmax(axis=1) == labels))


def column_sum(x: FloatArray, out: FloatArray | None = None) -> FloatArray:
    """The sum over the rows of (B, n), shape (n,)."""
    return np.asarray(np.add.reduce(x, axis=0, out=out))


def sgd_update(parameter: FloatArray, gradient: FloatArray, lr: float, decay: float) -> None:
    """parameter <- (1 - lr * decay) * parameter - lr * gradient, in place; overwrites gradient."""
    real = parameter.dtype.type
    if decay != 0.0:
        np.multiply(parameter, real(1.0 - lr * decay), out=parameter)
    np.multiply(gradient, real(lr), out=gradient)
    np.subtract(parameter, gradient, out=parameter)
