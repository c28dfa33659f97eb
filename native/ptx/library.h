// A folder of .ptx files whose kernels are found by the names that launches give.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "ptx/kernel.h"

namespace hadal {
namespace ptx {

// What names a kernel in either compiler's spelling: `rms_norm::forward<float,Bf16>`, threads, blocks a multiprocessor,
// and the types of the arguments, which tell overloads apart.
struct KernelName {
  std::string body, arguments;
  std::string threads, blocks;
  bool operator==(const KernelName&) const = default;
  std::string text() const { return body + ", threads " + threads + ", blocks " + blocks + ", arguments " + arguments; }
};
// Names of enumerators (`Kind::wide`) to numbers, which is how nvcc's names say them.
using Enumerators = std::map<std::string, std::string>;
// Of a mangled entry of PTX: `hadal::cuda::entry<&body<…>, threads, blocks, arguments…>`. Empty where it is no such
// entry.
KernelName nameOfEntry(const std::string& mangled);
// Of __PRETTY_FUNCTION__ of hadal::cuda::launch.
KernelName nameOfLaunch(const std::string& pretty, const Enumerators& enumerators);

class Library {
 public:
  explicit Library(const std::string& folder);
  // Decoded at the first call. Exactly one kernel must have the name.
  Kernel& find(const std::string& pretty);
  Kernel& entry(const std::string& mangled);
  const std::vector<std::unique_ptr<Kernel>>& kernels() const { return decoded; }
  std::vector<std::string> entries() const;

 private:
  struct File {
    std::string path, text;
    std::unique_ptr<Module> module;
  };
  struct Entry {
    std::string mangled;
    KernelName name;
    File* file;
    Kernel* kernel = nullptr;
  };
  Kernel& decode(Entry& entry);
  static std::string bodyOf(const Entry& entry);

  std::vector<std::unique_ptr<File>> files;
  std::vector<Entry> all;
  std::multimap<std::string, size_t> byBody;
  std::map<std::string, Kernel*> byLaunch;
  std::vector<std::unique_ptr<Kernel>> decoded;
  Enumerators enumerators;
};

}  // namespace ptx
}  // namespace hadal
