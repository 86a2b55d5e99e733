// gemm_naive: C <- alpha op(A) op(B) + beta C, one thread an element of C. The GEMM to begin with.
//
// The idea: an element of C (m, n) is the scalar product of a row of op(A) (m, k) and a column of op(B)
// (k, n).
// All matrices are row-major. op(X) is X, or its transpose where TRANS_A or TRANS_B is 1: it is not copied,
// but read with other strides.
//
// Grid and block: block (16, 16), x along the columns of C, y along its rows; grid x covers the columns, grid
// y may cover only some of the rows: each thread goes on in steps of the grid's height.
// Cost: 2 k reads for 2 k floating-point operations, one read an operation: caches help, but the arithmetic
// waits for memory most of the time. gemm_tiled.cu uses each number that it reads many times.
// Neighbouring threads read neighbouring columns of B (coalesced) and the same element of A (broadcast), but
// with TRANS_B = 1 they read B with a stride of k, the worst case.
#include "real.cuh"

#ifndef TRANS_A
#define TRANS_A 0
#endif
#ifndef TRANS_B
#define TRANS_B 0
#endif

extern "C" __global__ void gemm_naive(
    int m, int n, int k, real alpha, const real *a, const real *b, real beta, real *c)
{
    const long long column = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= n)
        return;
    // How far apart in memory: the terms of one sum, and the rows of op(A) or the columns of op(B).
    const long long a_term = TRANS_A ? m : 1, a_row = TRANS_A ? 1 : k;
    const long long b_term = TRANS_B ? 1 : n, b_column = TRANS_B ? k : 1;

    for (long long row = blockIdx.y * blockDim.y + threadIdx.y; row < m; row += gridDim.y * blockDim.y) {
        real sum = 0;
        for (int i = 0; i < k; ++i)
            sum += a[row * a_row + i * a_term] * b[i * b_term + column * b_column];
        real *out = c + row * n + column;
        // With beta = 0 the old content must not be used: it may be a NaN, and 0 times NaN is NaN.
        *out = beta == 0 ? alpha * sum : alpha * sum + beta * *out;
    }
}
