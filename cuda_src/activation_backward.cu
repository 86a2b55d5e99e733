// activation_backward: delta <- delta * activation'(z), with the derivative computed from a = activation(z).
//
// The idea: an element-wise operation needs no shape. The matrices are long rows of `count` numbers, thread i
// does number i, and neighbouring threads touch neighbouring addresses (coalesced).
//
// Grid and block: block 256, one thread a number.
// Cost: two reads and one write a number, hardly any arithmetic: bound by memory.
#include "activation.cuh"

extern "C" __global__ void activation_backward(long long count, real *delta, const real *a)
{
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count)
        delta[i] *= derivative<ACTIVATION>(a[i]);
}
