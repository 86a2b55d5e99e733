// count_correct: out[block] <- how many rows of logits (rows, classes) are largest at their label.
//
// The idea: each thread finds the largest logit of its rows, the block adds up the hits, and the host adds up
// the blocks. Of equal logits the first counts. A NaN counts as the largest, as in NumPy's argmax: so a
// network whose logits are NaN does not seem right by chance.
//
// Grid and block: block 256; any grid: thread i takes the rows i, i + all threads, ...
// Cost: one read of the logits and of the labels.
#include "real.cuh"
#include "reduce.cuh"

const int THREADS = 256;

__device__ __forceinline__ int first_largest(const real *z, int classes)
{
    int best = 0;
    for (int c = 1; c < classes; ++c)
        // The second part is true for the first NaN of the row.
        if (z[c] > z[best] || (z[c] != z[c] && z[best] == z[best]))
            best = c;
    return best;
}

extern "C" __global__ void __launch_bounds__(THREADS) count_correct(
    long long rows, int classes, const real *logits, const long long *labels, long long *out)
{
    long long hits = 0;
    const long long step = (long long)gridDim.x * THREADS;
    for (long long start = (long long)blockIdx.x * THREADS; start < rows; start += step) {
        const long long row = start + threadIdx.x;
        if (row < rows && first_largest(logits + row * classes, classes) == labels[row])
            ++hits;
    }
    hits = block_sum<THREADS>(hits);
    if (threadIdx.x == 0)
        out[blockIdx.x] = hits;
}
