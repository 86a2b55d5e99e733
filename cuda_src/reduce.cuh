// reduce.cuh: the sum of one value a thread over a block, in an order that never changes.
#pragma once

// Halves the number of summands in each step: thread i adds what thread i + half holds. Every thread of the
// block must call it; blockDim.x is THREADS, a power of two. The result is right in thread 0.
template <int THREADS, typename T>
__device__ __forceinline__ T block_sum(T value)
{
    static_assert((THREADS & (THREADS - 1)) == 0, "a tree needs a power of two");
    __shared__ T partial[THREADS];
    partial[threadIdx.x] = value;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half)
            partial[threadIdx.x] += partial[threadIdx.x + half];
    }
    return partial[0];
}
