// tile.cuh: how a block of threads brings a rectangle of a matrix from global to shared memory.
//
// Both functions read along the matrix's rows: neighbouring threads (x) read neighbouring addresses, so the
// access is coalesced. What lies outside the matrix becomes 0, which adds nothing to a sum of products.
#pragma once

#include "real.cuh"

// tile[r][c] <- source[r * stride + c] for c < columns and r < rows, and 0 for the rest of the tile.
template <int THREADS_X, int THREADS_Y, int HEIGHT, int WIDTH, int PITCH>
__device__ __forceinline__ void load_tile(
    real (&tile)[HEIGHT][PITCH], const real *source, long long stride, int rows, int columns)
{
    static_assert(HEIGHT % THREADS_Y == 0 && WIDTH % THREADS_X == 0, "the block must divide the tile evenly");
    const int tx = threadIdx.x, ty = threadIdx.y;
    // The whole block goes the same way here, and all but the tiles at the edge go the first, unguarded way.
    if (rows >= HEIGHT && columns >= WIDTH) {
#pragma unroll
        for (int r = 0; r < HEIGHT; r += THREADS_Y)
#pragma unroll
            for (int c = 0; c < WIDTH; c += THREADS_X)
                tile[r + ty][c + tx] = source[(r + ty) * stride + c + tx];
    } else {
#pragma unroll 1
        for (int r = 0; r < HEIGHT; r += THREADS_Y)
#pragma unroll
            for (int c = 0; c < WIDTH; c += THREADS_X)
                tile[r + ty][c + tx] =
                    r + ty < rows && c + tx < columns ? source[(r + ty) * stride + c + tx] : real(0);
    }
}

// The same, turned on the way: tile[c][r] <- source[r * stride + c].
template <int THREADS_X, int THREADS_Y, int HEIGHT, int WIDTH, int PITCH>
__device__ __forceinline__ void load_tile_transposed(
    real (&tile)[WIDTH][PITCH], const real *source, long long stride, int rows, int columns)
{
    static_assert(HEIGHT % THREADS_Y == 0 && WIDTH % THREADS_X == 0, "the block must divide the tile evenly");
    const int tx = threadIdx.x, ty = threadIdx.y;
    if (rows >= HEIGHT && columns >= WIDTH) {
#pragma unroll
        for (int r = 0; r < HEIGHT; r += THREADS_Y)
#pragma unroll
            for (int c = 0; c < WIDTH; c += THREADS_X)
                tile[c + tx][r + ty] = source[(r + ty) * stride + c + tx];
    } else {
#pragma unroll 1
        for (int r = 0; r < HEIGHT; r += THREADS_Y)
#pragma unroll
            for (int c = 0; c < WIDTH; c += THREADS_X)
                tile[c + tx][r + ty] =
                    r + ty < rows && c + tx < columns ? source[(r + ty) * stride + c + tx] : real(0);
    }
}
