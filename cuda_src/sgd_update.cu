// sgd_update: parameter <- keep * parameter - lr * gradient, a step of gradient descent with weight decay.
//
// The idea: L2 regularisation scales every weight by the factor keep = 1 - lr * decay. The host computes it
// once, in double precision, instead of every thread.
//
// Grid and block: block 256, one thread a number.
// Cost: two reads and one write a number: bound by memory.
#include "real.cuh"

extern "C" __global__ void sgd_update(
    long long count, real *parameter, const real *gradient, real keep, real lr)
{
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count)
        parameter[i] = keep * parameter[i] - lr * gradient[i];
}
