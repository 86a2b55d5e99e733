// total: out[block] <- the sum of the numbers that the block reads; the host adds up the blocks' sums.
//
// The idea: floating-point addition is not associative, so a sum by atomics differs from run to run. Here
// each number has a fixed place in a fixed tree: thread, block, host. All sums are in double precision: a
// long sum in float would lose the small numbers.
//
// Grid and block: block 256; any grid: thread i takes the numbers i, i + all threads, ... (coalesced).
// Cost: one read a number.
#include "real.cuh"
#include "reduce.cuh"

const int THREADS = 256;

extern "C" __global__ void __launch_bounds__(THREADS) total(long long count, const real *x, double *out)
{
    double sum = 0;
    const long long step = (long long)gridDim.x * THREADS;
    // `start` is the same for the whole block, so all its threads make the same number of rounds.
    for (long long start = (long long)blockIdx.x * THREADS; start < count; start += step)
        if (start + threadIdx.x < count)
            sum += x[start + threadIdx.x];
    sum = block_sum<THREADS>(sum);
    if (threadIdx.x == 0)
        out[blockIdx.x] = sum;
}
