// What this library tells of itself: its kernels, the machine's GPUs, versions.
#include "core/backend.h"

#include <unordered_map>

#include "cuda/cublaslt.h"
#include "cuda/executor.h"
#include "cuda/failure.h"

extern "C" const hadal::KernelEntry __start_hadal_kernels[] __attribute__((weak, visibility("hidden")));
extern "C" const hadal::KernelEntry __stop_hadal_kernels[] __attribute__((weak, visibility("hidden")));

namespace hadal {
namespace cuda {

const KernelEntry* findKernel(std::string_view name) {
  static const auto kernels = [] {
    std::unordered_map<std::string_view, const KernelEntry*> all;
    for (const KernelEntry* entry = __start_hadal_kernels; entry != __stop_hadal_kernels; entry++)
      all[entry->contract->name] = entry;
    return all;
  }();
  const auto found = kernels.find(name);
  return found == kernels.end() ? nullptr : found->second;
}

namespace {

std::vector<DeviceDescription> describeDevices(std::string& why) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  std::vector<DeviceDescription> devices;
  if (error != cudaSuccess || count == 0) {
    why = error == cudaErrorInsufficientDriver       ? "no NVIDIA driver of version 580 or later"
          : error == cudaErrorNoDevice || count == 0 ? "no NVIDIA GPU"
                                                     : std::string("the driver says: ") + cudaGetErrorString(error);
    cudaGetLastError();
    return devices;
  }
  for (int i = 0; i < count; i++) {
    cudaDeviceProp properties;
    must(cudaGetDeviceProperties(&properties, i), "describe the GPU");
    devices.push_back({properties.name, properties.major, properties.minor, properties.multiProcessorCount,
                       static_cast<int64_t>(properties.totalGlobalMem)});
  }
  return devices;
}

std::string versionOf(int number) { return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10); }

std::vector<std::string> describeLibraries() {
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  return {"CUDA runtime " + versionOf(runtime), driver ? "driver for CUDA " + versionOf(driver) : "no driver",
          cublaslt::status()};
}

std::unique_ptr<Executor> open(int device) { return std::make_unique<CudaExecutor>(device); }

}  // namespace

}  // namespace cuda
}  // namespace hadal

extern "C" __attribute__((visibility("default"))) const hadal::Backend* hadalBackend() {
  using namespace hadal::cuda;
  static const hadal::Backend backend{hadal::Backend::currentVersion, &findKernel, &describeDevices, &describeLibraries,
                                      &open};
  return &backend;
}
