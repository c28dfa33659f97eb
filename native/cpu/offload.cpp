#include "ops/offload.h"

#include <cstring>

#include "core/backing-file.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

void runPrefetch(const PrefetchParams& p, void* const* buffers, RunContext& context) {
  for (int64_t i = 0; i < p.tensors; i++) {
    if (const int error = prefetchPages(buffers[i], p.bytes[i], p.writes != 0))
      return context.fail("[prefetch] expected to read the file of offloaded tensors, got: %s", std::strerror(error));
  }
}

void runRelease(const ReleaseParams& p, void* const* buffers, RunContext& context) {
  for (int64_t i = 0; i < p.tensors; i++) {
    if (const int error = releasePages(buffers[i], p.bytes[i]))
      return context.fail("[release] expected to write the file of offloaded tensors, got: %s", std::strerror(error));
  }
}

}  // namespace

HADAL_KERNEL(prefetch, PrefetchParams, runPrefetch)
HADAL_KERNEL(release, ReleaseParams, runRelease)

}  // namespace HADAL_ISA
}  // namespace hadal
