// gather_images: out[r] <- images[index[r]] / 255, the images of one minibatch as numbers from 0 to 1.
//
// The idea: the data set stays on the device as bytes, a quarter of the memory of floats, and is shuffled by
// shuffling indices alone. The quotient is the correctly rounded one, so every device gets the same bits.
//
// Grid and block: any two-dimensional block, x along the pixels, y along the rows of the batch; grid x covers
// the pixels, grid y may cover only some of the rows: each thread goes on in steps of the grid's height.
// Cost: 1 byte read and sizeof(real) bytes written a pixel. Neighbouring threads take neighbouring pixels of
// one image, so reads and writes are coalesced, whatever the order of the images.
#include "real.cuh"

// byte / 255 without a division, which takes many times as long as a product. The product with 1 / 255 may be
// off by a unit in the last place. The remainder, which fma computes exactly, corrects that for all 256 bytes.
__device__ __forceinline__ real scaled(unsigned char byte)
{
    const real x = byte, inverse = real(1) / real(255);
    const real quotient = x * inverse;
    return fma(fma(-quotient, real(255), x), inverse, quotient);
}

extern "C" __global__ void gather_images(
    int rows, int pixels, const unsigned char *images, const long long *index, real *out)
{
    const long long pixel = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (pixel >= pixels)
        return;
    for (long long row = blockIdx.y * blockDim.y + threadIdx.y; row < rows; row += gridDim.y * blockDim.y)
        out[row * pixels + pixel] = scaled(images[index[row] * pixels + pixel]);
}
