// softmax.cuh: the part that softmax and cross-entropy share, for one row of logits.
#pragma once

#include "real.cuh"

struct Exponentials {
    real largest; // the row's maximum
    real sum;     // the sum of exp(z - largest), at least 1
};

// Overwrites a row z with exp(z - max z): without the subtraction exp would overflow from z = 89 on in float.
// A NaN in the row makes the sum a NaN.
__device__ __forceinline__ Exponentials exponentials(real *z, int classes)
{
    real largest = z[0];
    for (int c = 1; c < classes; ++c)
        largest = z[c] > largest ? z[c] : largest;
    real sum = 0;
    for (int c = 0; c < classes; ++c) {
        z[c] = exp(z[c] - largest);
        sum += z[c];
    }
    return {largest, sum};
}
