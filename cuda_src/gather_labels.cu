// gather_labels: out[i] <- labels[index[i]], the labels of one minibatch.
//
// The idea: a gather. Neighbouring threads read neighbouring indices (coalesced), then the labels at those
// places (scattered). Labels are few and small, so the scattered reads do not matter.
//
// Grid and block: block 256, one thread a label.
// Cost: two reads and one write of 8 bytes a label.

extern "C" __global__ void gather_labels(
    long long count, const long long *labels, const long long *index, long long *out)
{
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count)
        out[i] = labels[index[i]];
}
