// Errors of the CUDA runtime as exceptions, and exceptions as messages.
#pragma once
#include <exception>
#include <string>

#include "runtime.h"

// The simulator's account of what went wrong in a kernel; not there on a GPU.
extern "C" const char* hadalSimReport() __attribute__((weak));

namespace hadal {
namespace cuda {

inline void must(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // it would be reported by the next launch
  const char* report = hadalSimReport ? hadalSimReport() : nullptr;
  std::string text =
      std::string("[cuda] cannot ") + what + ": " + cudaGetErrorString(error) + " (" + cudaGetErrorName(error) + ")";
  if (report && *report) text += std::string("; ") + report;
  throw std::runtime_error(text);
}

// What `work` threw, or `unless`.
template <class Work>
std::string messageOf(Work&& work, const std::string& unless = {}) {
  try {
    work();
  } catch (const std::exception& error) {
    return error.what();
  }
  return unless;
}

}  // namespace cuda
}  // namespace hadal
