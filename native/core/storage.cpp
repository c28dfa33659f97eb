#include "core/storage.h"

#include <sys/mman.h>

namespace hadal {

std::shared_ptr<Storage> Storage::allocate(int64_t bytes) {
  constexpr int64_t page = 4096;
  const int64_t mapped = bytes <= 0 ? page : (bytes + page - 1) / page * page;
  void* data = mmap(nullptr, static_cast<size_t>(mapped), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return nullptr;
  return std::shared_ptr<Storage>(new Storage(data, bytes, mapped));
}

Storage::~Storage() { munmap(data_, static_cast<size_t>(mapped_)); }

}  // namespace hadal
