"""What to do about errors of the compiler that everybody meets who begins with CUDA."""

import re

_SHUFFLES = r"__shfl|__shfl_up|__shfl_down|__shfl_xor|__any|__all|__ballot"
_ADVICE = {
    r'identifier "(?:__)?half2?" is undefined': "#include <cuda_fp16.h>",
    r'identifier "(?:__)?(?:nv_)?bfloat16\w*" is undefined': "#include <cuda_bf16.h>",
    r'identifier "(?:nvcuda|wmma)" is undefined|name followed by "::" .*\bwmma\b': "#include <mma.h>",
    rf'identifier "(?:{_SHUFFLES})" is undefined': "add _sync, and a mask as the first argument",
    r'identifier "(?:s?rand|drand48|rand_r)" is undefined': "kernels have curand, #include <curand_kernel.h>",
    r'identifier "curand\w*" is undefined': "#include <curand_kernel.h>",
    r'identifier "(?:exit|abort)" is undefined': "a thread ends with return, a kernel with __trap()",
    r'(?:identifier|has no member) "(?:cout|cerr|endl|puts|putchar)"': "kernels write with printf",
    r'incomplete type "std::': "kernels have arrays, not containers of the host",
    r"device-side kernel launch": "kernels cannot launch kernels here: launch both from Python",
    r'overloaded function "atomic(?:Add|Exch|CAS)\w*" matches': (
        "64 bits are unsigned long long: cast the address to that"
    ),
}
"""What to do, by a pattern of the compiler's words."""


def advice(said: str) -> str:
    """What to do about an error in the compiler's words; "" where it says that itself."""
    return next((todo for pattern, todo in _ADVICE.items() if re.search(pattern, said)), "")
