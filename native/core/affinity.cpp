#include "core/affinity.h"

#ifdef __linux__
#include <sched.h>

namespace hadal {

std::vector<int> allowedProcessors() {
  cpu_set_t set;
  std::vector<int> processors;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return processors;
  for (int i = 0; i < CPU_SETSIZE; i++)
    if (CPU_ISSET(i, &set)) processors.push_back(i);
  return processors;
}

void allowProcessors(const std::vector<int>& processors) {
  if (processors.empty()) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int processor : processors) CPU_SET(processor, &set);
  sched_setaffinity(0, sizeof set, &set);
}

void giveWayToOthers() {
  const sched_param none{};
  sched_setscheduler(0, SCHED_IDLE, &none);
}

}  // namespace hadal

#else

namespace hadal {

std::vector<int> allowedProcessors() { return {}; }
void allowProcessors(const std::vector<int>&) {}
void giveWayToOthers() {}

}  // namespace hadal

#endif
