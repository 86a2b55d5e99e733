"""Libraries that ordinary .cu files include for their host code, and what stands in for them."""

import re

HOST_THRUST = """
device_vector host_vector device_ptr device_malloc device_free sort reduce scan transform
transform_reduce transform_scan execution_policy copy fill sequence generate count extrema inner_product
for_each find gather scatter unique remove replace partition merge set_operations binary_search
adjacent_difference random logical equal mismatch tabulate reverse uninitialized_copy
iterator/counting_iterator iterator/constant_iterator iterator/zip_iterator iterator/transform_iterator
iterator/permutation_iterator iterator/discard_iterator system/cuda/execution_policy system/cuda/vector
system/omp/execution_policy system/tbb/execution_policy system_error system/cuda/error universal_vector
async/reduce async/for_each async/copy detail/raw_pointer_cast memory
"""
"""Headers of thrust's containers and algorithms: NVRTC cannot compile CUDA's own."""

CUB = """
block/block_load block/block_store block/block_reduce block/block_scan block/block_radix_sort
block/block_exchange block/block_histogram block/block_discontinuity block/block_adjacent_difference
block/block_merge_sort block/block_radix_rank block/block_run_length_decode block/block_shuffle
warp/warp_exchange warp/warp_load warp/warp_merge_sort warp/warp_reduce warp/warp_scan warp/warp_store
thread/thread_load thread/thread_operators thread/thread_reduce thread/thread_scan thread/thread_search
thread/thread_sort thread/thread_store
"""
"""What <cub/cub.cuh> holds for kernels; NVRTC refuses it as a whole."""

THRUST = """#pragma once
namespace thrust {
template <class T> class device_vector; template <class T> class host_vector;
template <class T> class device_ptr;
}
"""
"""What stands in for them."""

_WITH_TYPES = {
    r"cublas\w*\.h": "#pragma once\n#include <cuda_fp16.h>\n#include <cuda_bf16.h>\n#include <cuComplex.h>\n"
    "typedef struct cublasContext *cublasHandle_t;\n",
    r"cufft\w*\.h": "#pragma once\n#include <cuComplex.h>\n"
    "typedef float cufftReal; typedef double cufftDoubleReal;\n"
    "typedef cuComplex cufftComplex; typedef cuDoubleComplex cufftDoubleComplex; typedef int cufftHandle;\n",
    r"(?:cudnn|cusolver|cusparse)\w*\.h": "#pragma once\n#include <cuda_fp16.h>\n#include <cuComplex.h>\n",
}
"""What kernels get of other libraries: types, and CUDA's headers that theirs include."""

HOST_LIBRARIES = re.compile(
    r"(?:cublas\w*|cufft\w*|cusparse\w*|cusolver\w*|cudnn\w*|nccl|nvml|npp\w*|nvjpeg\w*|cutensor\w*|cupti\w*|nvrtc"
    r"|cuda_gl_interop|cudaGL|cudaEGL|cuda_egl_interop|curand|nvToolsExt\w*|nvblas|nvgraph|cufile"
    r"|mpi|omp|openacc|cblas|mkl\w*|lapacke|fftw3|gsl/.*|hdf5|netcdf|png|jpeglib|zlib|tiff\w*|freeimage|FreeImage"
    r"|glut|Python|popt|mex|conio|direct|io|process|windows|Windows|winsock2|x86intrin|arm_neon)\.h"
    r"|(?:nvtx3|opencv2?|opencv4|GL|GLFW|GLES\w*|EGL|glad|glfw|SDL2?|SFML|X11|gtest|gmock|benchmark|catch2?|pybind11"
    r"|torch|ATen|c10|numpy|boost|glog|gflags|spdlog|fmt|nlohmann|mpi|tbb|cxxopts|cereal|yaml-cpp|args|bits)/.*"
    r"|(?:json|cxxopts|argparse|catch|cnpy|stb_image|stb_image_write|CImg|lodepng)\.(?:h|hpp)"
)
"""The names of headers that no kernel needs."""


def stand_in(name: str) -> str | None:
    """What stands in for a missing header of a library that is for host code alone; None for any other."""
    if name.startswith("thrust/"):
        return THRUST
    for names, text in _WITH_TYPES.items():
        if re.fullmatch(names, name):
            return text
    return "" if HOST_LIBRARIES.fullmatch(name) else None


def stand_ins() -> tuple[str, ...]:
    """All that decides what `stand_in` gives."""
    return (THRUST, HOST_LIBRARIES.pattern, *_WITH_TYPES, *_WITH_TYPES.values())
