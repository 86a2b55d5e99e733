// softmax: each row z of the logits (rows, classes) <- exp(z) / sum exp(z), the probability of every class.
//
// The idea: one thread, one row. The classes are few (ten digits), so a row is a short loop, and threads need
// not communicate. For thousands of classes a whole warp for each row would be better.
//
// Grid and block: block 256, one thread a row.
// Cost: three passes over a row, the later ones from cache. Neighbouring threads are a row apart, so accesses
// are not coalesced, but every byte of a cache line is used before the line is evicted.
#include "softmax.cuh"

extern "C" __global__ void softmax(long long rows, int classes, real *logits)
{
    const long long row = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows)
        return;
    real *z = logits + row * classes;
    const real sum = exponentials(z, classes).sum;
    for (int c = 0; c < classes; ++c)
        z[c] /= sum;
}
