// bias_activation: z <- activation(z + bias), z of shape (rows, columns), bias of shape (columns).
//
// The idea: neighbouring threads take neighbouring columns, so a warp reads and writes consecutive addresses
// (coalesced), and a thread stays in its column while it walks down the rows, so it reads its bias once.
//
// Grid and block: any two-dimensional block, x along the columns, y along the rows; grid x covers the
// columns, grid y may cover only some of the rows: each thread goes on in steps of the grid's height.
// Cost: one read and one write of z. It is bound by memory, which is why gemm_tiled.cu can do the same work
// before it writes z at all.
#include "activation.cuh"

extern "C" __global__ void bias_activation(int rows, int columns, real *z, const real *bias)
{
    const long long column = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= columns)
        return;
    const real b = bias[column];
    for (long long row = blockIdx.y * blockDim.y + threadIdx.y; row < rows; row += gridDim.y * blockDim.y) {
        real *element = z + row * columns + column;
        *element = activate<ACTIVATION>(*element + b);
    }
}
