// Process groups over Gloo, whose code is in a library of its own beside this
// one: hadal-gloo.so, which is opened when the first group is made, so that
// libibverbs and what else Gloo needs is not loaded by everyone.
#include <dlfcn.h>

#include <filesystem>
#include <mutex>

#include "comm/backend.h"

namespace hadal {

namespace {

using Open = ConnectableGroup* (*)(const GroupOptions&);

// Of the library beside the file that this code is in.
Open load(const std::string& given) {
  std::filesystem::path path = given;
  if (given.empty()) {
    Dl_info self;
    if (dladdr(reinterpret_cast<void*>(&load), &self)) path = self.dli_fname;
    path.replace_filename("hadal-gloo.so");
  }
  const std::string fix = "; install libgloo-dev, then npm run build:native";
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) throw CommError("[comm] expected Gloo, cannot open it (" + std::string(dlerror()) + ")" + fix);
  const auto open = reinterpret_cast<Open>(dlsym(library, "hadalOpenGloo"));
  if (!open) throw CommError("[comm] expected " + path.string() + " to be of this build, it is not" + fix);
  return open;
}

}  // namespace

std::shared_ptr<ConnectableGroup> openGloo(const GroupOptions& options) {
  return std::shared_ptr<ConnectableGroup>(load(options.library)(options));
}

}  // namespace hadal
