// What tests of the host executor share: a stream, memory, and one outcome of everything that can go wrong.
#pragma once
#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "cuda/launch.cuh"
#include "runtime.h"

namespace hadal {
namespace cuda {

class Trial {
 public:
  Trial() {
    must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    void* fault;
    must(cudaMalloc(&fault, sizeof(Fault)));
    must(cudaMemset(fault, 0, sizeof(Fault)));
    must(cudaDeviceSynchronize());
    context.stream = stream;
    context.fault = static_cast<Fault*>(fault);
    context.processors = 4;
  }

  template <class T>
  T* device(size_t count) {
    void* memory;
    must(cudaMalloc(&memory, count * sizeof(T)));
    return static_cast<T*>(memory);
  }
  template <class T>
  T* device(const std::vector<T>& values) {
    T* memory = device<T>(values.size());
    must(cudaMemcpy(memory, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
    return memory;
  }
  template <class T>
  T* pinned(size_t count) {
    void* memory;
    must(cudaMallocHost(&memory, count * sizeof(T)));
    return static_cast<T*>(memory);
  }
  // After all that the stream holds.
  template <class T>
  std::vector<T> read(const T* memory, size_t count) {
    synchronize();
    std::vector<T> values(count);
    must(cudaMemcpy(values.data(), memory, count * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }
  void synchronize() { must(cudaStreamSynchronize(stream)); }

  // The first thing that went wrong stands.
  void must(cudaError_t error) {
    if (error == cudaSuccess) return;
    const std::string report = hadalSimReport();
    fail(std::string(cudaGetErrorName(error)) + (report.empty() ? "" : ": " + report));
  }
  void fail(const std::string& text) {
    if (outcome_.empty()) outcome_ = text;
  }
  template <class T, class F>
  void expect(const std::vector<T>& values, F&& expected) {
    for (size_t i = 0; i < values.size(); i++) {
      const T wanted = static_cast<T>(expected(i));
      if (values[i] == wanted || (values[i] != values[i] && wanted != wanted)) continue;
      return fail("wrong result at " + std::to_string(i) + ": expected " + std::to_string(wanted) + ", got " +
                  std::to_string(values[i]));
    }
  }
  // Empty where all is well.
  std::string outcome() {
    if (context.failed) fail(context.message);
    must(cudaDeviceSynchronize());
    return outcome_;
  }

  RunContext context;
  cudaStream_t stream = nullptr;

 private:
  std::string outcome_;
};

// A case that main.cpp can run by name.
struct Case {
  const char* name;
  std::function<void(Trial& trial)> run;
};
// Pairs: the fault and, as <name>-clean, the same code without it.
std::vector<Case> plantedFaults();
std::vector<Case> primitiveCases();

}  // namespace cuda
}  // namespace hadal
