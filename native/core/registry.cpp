#include "core/registry.h"

#include <cstdlib>
#include <string>
#include <unordered_map>

extern "C" const hadal::KernelEntry __start_hadal_kernels[] __attribute__((weak, visibility("hidden")));
extern "C" const hadal::KernelEntry __stop_hadal_kernels[] __attribute__((weak, visibility("hidden")));

namespace hadal {

namespace {

Isa machineIsa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni"))
    return __builtin_cpu_supports("avx512bf16") ? Isa::avx512bf16 : Isa::avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") &&
      __builtin_cpu_supports("f16c"))
    return Isa::avx2;
#endif
  return Isa::portable;
}

std::unordered_map<std::string_view, const KernelEntry*> index() {
  std::unordered_map<std::string_view, const KernelEntry*> best;
  for (const KernelEntry* entry = kernelsBegin(); entry != kernelsEnd(); entry++) {
    if (entry->isa > chosenIsa()) continue;
    const KernelEntry*& known = best[entry->contract->name];
    if (!known || known->isa < entry->isa) known = entry;
  }
  return best;
}

}  // namespace

Isa chosenIsa() {
  static const Isa isa = [] {
    const Isa machine = machineIsa();
    const char* wish = std::getenv("HADAL_ISA");
    for (Isa lesser : {Isa::portable, Isa::avx2, Isa::avx512})
      if (wish && lesser < machine && std::string_view(wish) == isaName(lesser)) return lesser;
    return machine;
  }();
  return isa;
}

const char* isaName(Isa isa) {
  static constexpr const char* names[] = {"portable", "avx2", "avx512", "avx512bf16"};
  return names[static_cast<int>(isa)];
}

const KernelEntry* findKernel(std::string_view name) {
  static const auto kernels = index();
  const auto found = kernels.find(name);
  return found == kernels.end() ? nullptr : found->second;
}

const KernelEntry* kernelsBegin() { return __start_hadal_kernels; }
const KernelEntry* kernelsEnd() { return __stop_hadal_kernels; }

}  // namespace hadal
