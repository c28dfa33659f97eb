#include "core/storage.h"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>

namespace hadal {

namespace {

std::atomic<int64_t> live{0}, peak{0};

void count(int64_t bytes) {
  const int64_t now = live.fetch_add(bytes) + bytes;
  int64_t before = peak.load();
  while (now > before && !peak.compare_exchange_weak(before, now)) {
  }
}

}  // namespace

std::shared_ptr<Storage> Storage::allocate(int64_t bytes) {
  constexpr int64_t page = 4096;
  const int64_t mapped = bytes <= 0 ? page : (bytes + page - 1) / page * page;
  void* data = mmap(nullptr, static_cast<size_t>(mapped), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return nullptr;
  count(mapped);
  return std::shared_ptr<Storage>(new Storage(data, bytes, mapped, nullptr));
}

std::shared_ptr<Storage> Storage::allocateIn(std::shared_ptr<BackingFile> file, int64_t bytes) {
  void* data = file->map(bytes);
  return std::shared_ptr<Storage>(new Storage(data, bytes, 0, std::move(file)));
}

std::shared_ptr<Storage> Storage::adopt(void* data, int64_t bytes, std::function<void()> release) {
  auto block = std::shared_ptr<Storage>(new Storage(data, bytes, 0, nullptr));
  block->release_ = std::move(release);
  return block;
}

Storage::~Storage() {
  if (release_) {
    release_();
    return;
  }
  if (file_) {
    file_->unmap(data_);
    return;
  }
  munmap(data_, static_cast<size_t>(mapped_));
  count(-mapped_);
}

void provideMemory(void* data, int64_t bytes) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
  const auto end = (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) / page * page;
#ifdef MADV_HUGEPAGE
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // a wish
#endif
  for (uintptr_t at = begin; at < end; at += page) *reinterpret_cast<volatile char*>(at) = 0;
}

StorageBytes Storage::inUse() { return {live.load(), peak.load()}; }

}  // namespace hadal
