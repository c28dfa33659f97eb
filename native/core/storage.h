// Zero-initialised memory, 64-byte aligned. Large blocks are untouched pages: they cost nothing until written.
#pragma once
#include <cstdint>
#include <memory>

namespace hadal {

// Bytes of all blocks of the process, in whole pages: now, and the most there ever were.
struct StorageBytes {
  int64_t live, peak;
};

class Storage {
 public:
  // Null when the system refuses.
  static std::shared_ptr<Storage> allocate(int64_t bytes);
  ~Storage();
  static StorageBytes inUse();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  Storage(void* data, int64_t bytes, int64_t mapped) : data_(data), bytes_(bytes), mapped_(mapped) {}
  void* data_;
  int64_t bytes_;
  int64_t mapped_;
};

}  // namespace hadal
