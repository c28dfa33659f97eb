// The kernels that were linked in, and the instruction set this process uses.
#pragma once
#include <string_view>

#include "core/kernel.h"

namespace hadal {

// The best instruction set of this machine, or a lesser one asked for with HADAL_ISA=portable|avx2|avx512|avx512bf16.
Isa chosenIsa();
const char* isaName(Isa isa);

// The entry compiled for the best instruction set not above the chosen one; null when there is no such kernel.
const KernelEntry* findKernel(std::string_view name);

const KernelEntry* kernelsBegin();
const KernelEntry* kernelsEnd();

}  // namespace hadal
