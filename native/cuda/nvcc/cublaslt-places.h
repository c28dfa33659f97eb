// Where cuBLASLt is looked for on a GPU; native/sim/cublaslt-places.h is the simulated device's.
#pragma once

namespace hadal::cuda::cublaslt {

// Newest first: what the system finds, the toolkit's, then those of Python's wheels (patterns of glob(3)). A name that begins with
// $ stands for a variable of the environment; one that begins with @ for the folder of the library that this is part of.
inline constexpr const char* places[] = {
    "libcublasLt.so.13",
    "libcublasLt.so.12",
    "/usr/local/cuda/lib64/libcublasLt.so.1[23]",
    "$VIRTUAL_ENV/lib/python3*/site-packages/nvidia/cu13/lib/libcublasLt.so.13",
    "$VIRTUAL_ENV/lib/python3*/site-packages/nvidia/cublas/lib/libcublasLt.so.12",
    "$CONDA_PREFIX/lib/libcublasLt.so.1[23]",
    "$CONDA_PREFIX/lib/python3*/site-packages/nvidia/cu*/lib/libcublasLt.so.1[23]",
    "/usr/local/lib/python3*/*-packages/nvidia/cu*/lib/libcublasLt.so.1[23]",
    "/usr/lib/python3*/*-packages/nvidia/cu*/lib/libcublasLt.so.1[23]",
    "$HOME/.local/lib/python3*/site-packages/nvidia/cu*/lib/libcublasLt.so.1[23]",
};
// The stand-in computes on the host: not here.
inline constexpr bool takesStandIn = false;
// Multiplications of a product that is worth the library's call: it serves all sizes.
inline constexpr double leastMultiplications = 0;

}  // namespace hadal::cuda::cublaslt
