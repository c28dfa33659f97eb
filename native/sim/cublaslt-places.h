// Where the simulated device finds cuBLASLt: the stand-in beside the library that this is part of.
#pragma once

namespace hadal::cuda::cublaslt {

inline constexpr const char* places[] = {"@/hadal-cublaslt-sim.so"};
inline constexpr bool takesStandIn = true;
// Smaller products are quick in our own kernels, thread by thread, which thereby are tested by whatever runs.
inline constexpr double leastMultiplications = 32 * 32 * 32;

}  // namespace hadal::cuda::cublaslt
