// activation.cuh: what a neuron does with its weighted sum z, and the derivative that training needs.
//
// The kind is a template parameter, so the choice is made when the kernel is compiled (-DACTIVATION=SIGMOID,
// TANH, RELU or IDENTITY) and costs nothing when it runs.
#pragma once

#include "real.cuh"

enum Activation { IDENTITY, SIGMOID, TANH, RELU };

#ifndef ACTIVATION
#define ACTIVATION IDENTITY
#endif

template <Activation kind>
__device__ __forceinline__ real activate(real z)
{
    if constexpr (kind == SIGMOID)
        return real(1) / (real(1) + exp(-z)); // where exp overflows the quotient is 0, as it should be
    else if constexpr (kind == TANH)
        return tanh(z);
    else if constexpr (kind == RELU)
        return z < 0 ? real(0) : z; // written so that a NaN stays a NaN
    else
        return z;
}

// The derivative written through the output a = activation(z): all three allow it, so z need not be kept.
template <Activation kind>
__device__ __forceinline__ real derivative(real a)
{
    if constexpr (kind == SIGMOID)
        return a * (real(1) - a);
    else if constexpr (kind == TANH)
        return real(1) - a * a;
    else if constexpr (kind == RELU)
        return a > 0 ? real(1) : a; // a is 0 where the unit was silent, or a NaN, which stays one
    else
        return real(1);
}
