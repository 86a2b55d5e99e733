// gather_images: out[r] <- images[index[r]] / 255, the pictures of one minibatch as numbers from 0 to 1.
//
// The idea: the data set stays on the device as bytes, a quarter of the memory of floats, and is shuffled by
// shuffling indices alone. The division is the correctly rounded one, so every device gets the same bits.
//
// Grid and block: block (16, 16), x along the pixels, y along the rows of the batch; grid x covers the
// pixels, grid y may cover only some of the rows: each thread goes on in steps of the grid's height.
// Cost: 1 byte read and sizeof(real) bytes written a pixel. Neighbouring threads take neighbouring pixels of
// one picture, so reads and writes are coalesced, whatever the order of the pictures.
#include "real.cuh"

extern "C" __global__ void gather_images(
    int rows, int pixels, const unsigned char *images, const long long *index, real *out)
{
    const long long pixel = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (pixel >= pixels)
        return;
    for (long long row = blockIdx.y * blockDim.y + threadIdx.y; row < rows; row += gridDim.y * blockDim.y)
        out[row * pixels + pixel] = real(images[index[row] * pixels + pixel]) / real(255);
}
