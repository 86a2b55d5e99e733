// gemm_tiled: C <- alpha op(A) op(B) + beta C in tiles, through shared memory and registers.
//
// The idea: a block computes a tile of C, TILE_M x TILE_N. It goes along the common dimension k in slices of
// TILE_K: all threads together load the slice's tiles of A and of B into shared memory, then multiply from
// there. Each thread holds THREAD_M x THREAD_N sums in registers, so a number read from shared memory is used
// THREAD_M or THREAD_N times: two levels of reuse.
//
//                     n ->  threads tx = 0..15: columns tx, tx + 16, ...
//                  +---------------------------+
//     k            |  Bs[k][n]                 |    a thread's columns are 16 apart, so that neighbouring
//     |            +---------------------------+    threads read neighbouring words of Bs (no bank conflict,
//     v                                             one vector load); all threads of equal ty read the same
//        +-----+   +---------------------------+    word of As (broadcast)
//   m    | As  |   |  C, rows ty * THREAD_M .. |
//        +-----+   +---------------------------+
//
// Grid and block: block (THREADS_X, THREADS_Y), one block a tile. Tiles are numbered along the rows of C on
// grid x alone, because a grid's y ends at 65535.
// Cost: A is read from global memory n / TILE_N times, B m / TILE_M times: with 64 x 64 tiles and float 16
// operations a byte, where the naive kernel makes 1/4. Shared memory gives THREAD_M + THREAD_N words for
// 2 THREAD_M THREAD_N operations.
//
// Compile with -DTRANS_A=0|1 -DTRANS_B=0|1 -DREAL=float|double and the tile's sizes; with -DACTIVATION=SIGMOID,
// TANH or RELU the file holds the fused kernel instead. All matrices are row-major; m, n, k may be any numbers.
#ifdef ACTIVATION
#define FUSED
#endif

#include "activation.cuh"
#include "tile.cuh"

#ifndef TRANS_A
#define TRANS_A 0
#endif
#ifndef TRANS_B
#define TRANS_B 0
#endif
#ifndef TILE_M
#define TILE_M 64
#endif
#ifndef TILE_N
#define TILE_N 64
#endif
#ifndef TILE_K
#define TILE_K 16
#endif
#ifndef THREAD_M
#define THREAD_M 4
#endif
#ifndef THREAD_N
#define THREAD_N 4
#endif

const int THREADS_X = TILE_N / THREAD_N;
const int THREADS_Y = TILE_M / THREAD_M;
static_assert(TILE_M % THREAD_M == 0 && TILE_N % THREAD_N == 0, "threads must divide the tile evenly");
static_assert(THREADS_X * THREADS_Y <= 1024, "a block has at most 1024 threads");

// Where this block's tile begins.
struct Corner {
    long long row, column;
};

__device__ __forceinline__ Corner corner(int n)
{
    const unsigned across = ((unsigned)n + TILE_N - 1) / TILE_N; // tiles side by side
    return {(long long)(blockIdx.x / across) * TILE_M, (long long)(blockIdx.x % across) * TILE_N};
}

// The tiles lie in shared memory as in global memory. Only a transposed B is transposed back, because the
// threads must find neighbouring columns side by side. The padding of A keeps the two rows of threads of a
// warp, which read THREAD_M rows apart, out of the same bank (for THREAD_M up to 4). It keeps rows aligned to
// 16 bytes, so that one load brings four terms. The padding of B avoids bank conflicts when it is transposed.
const int PAD = 16 / sizeof(real);
const int A_ROWS = TRANS_A ? TILE_K : TILE_M;
const int A_PITCH = TRANS_A ? TILE_M : TILE_K + PAD;
const int B_PITCH = TRANS_B ? TILE_N + 1 : TILE_N;

// Computes the sums of one thread, its part of the tile.
__device__ __forceinline__ void multiply(
    real (&sum)[THREAD_M][THREAD_N], int m, int n, int k, const real *a, const real *b, Corner at)
{
    __shared__ __align__(16) real as[A_ROWS][A_PITCH];
    __shared__ __align__(16) real bs[TILE_K][B_PITCH];
    const int tx = threadIdx.x, ty = threadIdx.y;
    const int rows = (int)(m - at.row), columns = (int)(n - at.column); // from here to the matrix's edges

#pragma unroll
    for (int i = 0; i < THREAD_M; ++i)
#pragma unroll
        for (int j = 0; j < THREAD_N; ++j)
            sum[i][j] = 0;

    const real *a_tile = TRANS_A ? a + at.row : a + at.row * k;
    const real *b_tile = TRANS_B ? b + at.column * k : b + at.column;
    for (int terms = k; terms > 0; terms -= TILE_K) {
        __syncthreads(); // all threads are done with the tiles of the slice before
#if TRANS_A
        load_tile<THREADS_X, THREADS_Y, TILE_K, TILE_M>(as, a_tile, m, terms, rows);
#else
        load_tile<THREADS_X, THREADS_Y, TILE_M, TILE_K>(as, a_tile, k, rows, terms);
#endif
#if TRANS_B
        load_tile_transposed<THREADS_X, THREADS_Y, TILE_N, TILE_K>(bs, b_tile, k, columns, terms);
#else
        load_tile<THREADS_X, THREADS_Y, TILE_K, TILE_N>(bs, b_tile, n, terms, columns);
#endif
        a_tile += TRANS_A ? (long long)TILE_K * m : TILE_K;
        b_tile += TRANS_B ? TILE_K : (long long)TILE_K * n;
        __syncthreads(); // both tiles are complete

#pragma unroll
        for (int p = 0; p < TILE_K; ++p)
#pragma unroll
            for (int i = 0; i < THREAD_M; ++i) {
                const real left = TRANS_A ? as[p][ty * THREAD_M + i] : as[ty * THREAD_M + i][p];
#pragma unroll
                for (int j = 0; j < THREAD_N; ++j)
                    sum[i][j] += left * bs[p][tx + j * THREADS_X];
            }
    }
}

// Hands every element of C that this thread owns to `finish`, with its sum and its column.
template <typename Finish>
__device__ __forceinline__ void write(
    const real (&sum)[THREAD_M][THREAD_N], int m, int n, Corner at, real *c, Finish finish)
{
    const int tx = threadIdx.x, ty = threadIdx.y;
    const int rows = (int)(m - at.row), columns = (int)(n - at.column); // from here to the matrix's edges
#pragma unroll
    for (int i = 0; i < THREAD_M; ++i) {
        const int r = ty * THREAD_M + i;
        if (r < rows) {
            real *out = c + (at.row + r) * n + at.column;
#pragma unroll
            for (int j = 0; j < THREAD_N; ++j) {
                const int t = tx + j * THREADS_X;
                if (t < columns)
                    finish(out[t], sum[i][j], at.column + t);
            }
        }
    }
}

#ifndef FUSED
// C <- alpha op(A) op(B) + beta C.
extern "C" __global__ void __launch_bounds__(THREADS_X * THREADS_Y) gemm_tiled(
    int m, int n, int k, real alpha, const real *a, const real *b, real beta, real *c)
{
    real sum[THREAD_M][THREAD_N];
    const Corner at = corner(n);
    multiply(sum, m, n, k, a, b, at);
    // With beta = 0 the old content must not be used: it may be a NaN, and 0 times NaN is NaN.
    if (beta == 0)
        write(sum, m, n, at, c, [=](real &out, real s, long long) { out = alpha * s; });
    else
        write(sum, m, n, at, c, [=](real &out, real s, long long) { out = alpha * s + beta * out; });
}

#else
// C <- activation(op(A) op(B) + bias), bias (n) added to every row: C is written once, finished.
extern "C" __global__ void __launch_bounds__(THREADS_X * THREADS_Y) gemm_tiled_activation(
    int m, int n, int k, const real *a, const real *b, const real *bias, real *c)
{
    real sum[THREAD_M][THREAD_N];
    const Corner at = corner(n);
    multiply(sum, m, n, k, a, b, at);
    write(sum, m, n, at, c, [=](real &out, real s, long long column) {
        out = activate<ACTIVATION>(s + bias[column]);
    });
}
#endif
