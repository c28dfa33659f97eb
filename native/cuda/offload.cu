// What native/ops/offload.h says of memory-mapped files has no meaning for memory of a GPU: there, offloaded tensors lie in
// pinned memory of the host that has addresses on the device, and kernels read and write them where they are, over PCIe. The
// memory is never paged out, so that nothing is to be brought in before use or let go after it. Both kernels launch nothing.
#include "ops/offload.h"

#include "cuda/launch.cuh"

namespace hadal {
namespace cuda {
namespace offload {

void runPrefetch(const PrefetchParams&, void* const*, RunContext&) {}
void runRelease(const ReleaseParams&, void* const*, RunContext&) {}

}  // namespace offload

HADAL_KERNEL(prefetch, PrefetchParams, offload::runPrefetch)
HADAL_KERNEL(release, ReleaseParams, offload::runRelease)

}  // namespace cuda
}  // namespace hadal
