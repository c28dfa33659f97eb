// Calls of kernels, written down with what they were given and what they made of it: HADAL_SIM_RECORD=<file> appends them to
// <file>.<process>, and native/sim/replay runs them again, in other orders of threads and under sanitizers.
#pragma once
#include <memory>

#include "core/kernel.h"

namespace hadal {
namespace cuda {

// Lives around a kernel's run(): memory is copied on the stream before the kernel's first launch and after its last. What is
// left out: streams that are captured, predicated calls, collectives, calls beyond 64 MiB, calls of the same kernel with equal params beyond
// eight.
class Recording {
 public:
  Recording(const KernelEntry& kernel, const void* params, void* const* buffers, const RunContext& context);
  ~Recording();

 private:
  struct Call;
  std::shared_ptr<Call> call_;
};

}  // namespace cuda
}  // namespace hadal
