// column_sum: out[p] <- the sums of the columns of x (rows, columns), over the rows of part p.
//
// The idea: sixteen threads share a column. Each adds every sixteenth row, then one of them adds the sixteen
// partial sums in shared memory, always in the same order: without atomics, so every run gives the same bits.
// A tall matrix is cut into parts of `part_rows` rows, so that more blocks have work. A second launch then
// sums the parts, which are a matrix (parts, columns) themselves.
//
// Grid and block: block (16, 16), x along the columns (coalesced), y along the rows; grid x covers the
// columns, grid y the parts.
// Cost: one read of x.
#include "real.cuh"

const int SIDE = 16;

extern "C" __global__ void __launch_bounds__(SIDE * SIDE) column_sum(
    int rows, int columns, int part_rows, const real *x, real *out)
{
    __shared__ real partial[SIDE][SIDE];
    const long long first = (long long)blockIdx.x * SIDE;
    const int left = (int)min((long long)SIDE, columns - first); // columns of this block, SIDE or fewer
    const long long start = (long long)blockIdx.y * part_rows;
    const long long stop = min(start + part_rows, (long long)rows);

    real sum = 0;
    if (threadIdx.x < left)
        for (long long row = start + threadIdx.y; row < stop; row += SIDE)
            sum += x[row * columns + first + threadIdx.x];
    partial[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();

    if (threadIdx.y == 0 && threadIdx.x < left) {
        real whole = partial[0][threadIdx.x];
        for (int y = 1; y < SIDE; ++y)
            whole += partial[y][threadIdx.x];
        out[(long long)blockIdx.y * columns + first + threadIdx.x] = whole;
    }
}
