// A library of kernels for a kind of device: the processor's, which is linked in, and those that are opened at run time from
// files beside the binary (hadal-cuda.so, hadal-cuda-sim.so).
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/executor.h"

namespace hadal {

struct DeviceDescription {
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int processors = 0;
  int64_t memoryBytes = 0;
};

struct Backend {
  static constexpr int currentVersion = 1;
  // Of these very structures: a file of another build is refused.
  int version;
  const KernelEntry* (*kernel)(std::string_view name);
  // The machine's devices; where there are none, `why` says why.
  std::vector<DeviceDescription> (*devices)(std::string& why);
  // Lines for people: versions of driver, runtime and libraries.
  std::vector<std::string> (*libraries)();
  // Throws std::runtime_error.
  std::unique_ptr<Executor> (*open)(int device);
};

// 'cpu', 'cuda' or 'cuda-sim'. Null where it is not there; `why` then says why, in words that begin a sentence.
const Backend* findBackend(const std::string& name, std::string& why);

}  // namespace hadal
