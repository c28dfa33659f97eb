// The CUDA runtime for host code; native/sim/runtime.h is the fake one.
#pragma once
#include <cuda_runtime_api.h>
