// softmax_cross_entropy: for each row z of the logits (rows, classes) with its right class `label`:
//     loss <- log(sum exp(z)) - z[label]
//     z    <- (softmax(z) - one_hot(label)) * scale, the gradient of scale * loss
//
// The idea: loss and gradient need the same exponentials, so one kernel makes both. log(sum exp(z)) is max +
// log(sum exp(z - max)), which neither overflows nor takes the logarithm of 0. `scale` is 1 / (size of the
// whole batch), so that the sum of the gradients over all samples is the gradient of the mean loss.
//
// Grid and block: block 256, one thread a row, as in softmax.cu.
// Cost: three passes over a row, the later ones from cache; one exponential a number.
#include "softmax.cuh"

extern "C" __global__ void softmax_cross_entropy(
    long long rows, int classes, real *logits, const long long *labels, real *losses, real scale)
{
    const long long row = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows)
        return;
    real *z = logits + row * classes;
    const int label = (int)labels[row];
    const real right = z[label]; // read before the row is overwritten
    const Exponentials e = exponentials(z, classes);
    losses[row] = log(e.sum) - (right - e.largest);
    for (int c = 0; c < classes; ++c)
        z[c] = (z[c] / e.sum - (c == label ? real(1) : real(0))) * scale;
}
