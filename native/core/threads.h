// Splitting work over the executor's threads. Static partition: the same thread count gives the same bits.
#pragma once
#include <omp.h>

#include <cstdint>

namespace hadal {
namespace HADAL_ISA {

// Calls body(begin, end, thread) on contiguous shares of [0, count). `grain` is the least share worth a thread.
template <class Body>
inline void parallelFor(int64_t count, int threads, int64_t grain, Body&& body) {
  if (count <= 0) return;
  const int64_t most = (count + grain - 1) / grain;
  const int used = static_cast<int>(most < threads ? most : threads);
  if (used <= 1) {
    body(int64_t{0}, count, 0);
    return;
  }
  // A whole team each time: OpenMP ends the threads that a smaller one leaves out, and makes them anew for the next.
  // Where it grants fewer (OMP_THREAD_LIMIT), the shares stay as they are.
#pragma omp parallel num_threads(threads)
  for (int share = omp_get_thread_num(); share < used; share += omp_get_num_threads()) {
    const int64_t begin = count * share / used, end = count * (share + 1) / used;
    if (begin < end) body(begin, end, share);
  }
}

}  // namespace HADAL_ISA
}  // namespace hadal
