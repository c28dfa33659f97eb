// On a GPU nothing is written down; native/sim/record.h is the simulated one's.
#pragma once
#include "core/kernel.h"

namespace hadal {
namespace cuda {

struct Recording {
  Recording(const KernelEntry&, const void*, void* const*, const RunContext&) {}
};

}  // namespace cuda
}  // namespace hadal
