#include "core/backend.h"

#include <dlfcn.h>

#include <map>
#include <mutex>

#include "core/registry.h"

namespace hadal {

namespace {

// The folder this binary lies in.
std::string ownFolder() {
  Dl_info info;
  if (!dladdr(reinterpret_cast<const void*>(&ownFolder), &info) || !info.dli_fname) return ".";
  const std::string file = info.dli_fname;
  const size_t slash = file.rfind('/');
  return slash == std::string::npos ? "." : file.substr(0, slash);
}

struct Opened {
  const Backend* backend = nullptr;
  std::string why;
};

Opened openLibrary(const std::string& name) {
#if defined(__x86_64__)
  // What it is compiled for.
  if (name == "cuda-sim" && !(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")))
    return {nullptr, "the simulated GPU needs a processor with AVX2"};
#endif
  const std::string path = ownFolder() + "/hadal-" + name + ".so";
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) return {nullptr, "cannot open " + path + " (" + dlerror() + ")"};
  const auto entry = reinterpret_cast<const Backend* (*)()>(dlsym(library, "hadalBackend"));
  const Backend* backend = entry ? entry() : nullptr;
  if (!backend || backend->version != Backend::currentVersion)
    return {nullptr, path + " belongs to another version of hadal"};
  return {backend, {}};
}

}  // namespace

const Backend* findBackend(const std::string& name, std::string& why) {
  static const Backend cpu{Backend::currentVersion, &findKernel, nullptr, nullptr, nullptr};
  if (name == "cpu") return &cpu;
  if (name != "cuda" && name != "cuda-sim") {
    why = "there is no backend '" + name + "'";
    return nullptr;
  }
  static std::mutex mutex;
  static std::map<std::string, Opened> opened;  // never closed: kernels and executors may be in use
  std::lock_guard lock(mutex);
  auto found = opened.find(name);
  if (found == opened.end()) found = opened.emplace(name, openLibrary(name)).first;
  why = found->second.why;
  return found->second.backend;
}

}  // namespace hadal
