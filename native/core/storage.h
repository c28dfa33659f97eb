// Zero-initialised memory, 64-byte aligned. Large blocks are untouched pages: they cost nothing until written. A block lies
// in the process's own memory, in a file or in that of a device.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "core/backing-file.h"

namespace hadal {

// Bytes of all blocks of the process that lie in no file, in whole pages: now, and the most there ever were.
struct StorageBytes {
  int64_t live, peak;
};

class Storage {
 public:
  // Null when the system refuses.
  static std::shared_ptr<Storage> allocate(int64_t bytes);
  // Throws std::system_error when the file has no such room.
  static std::shared_ptr<Storage> allocateIn(std::shared_ptr<BackingFile> file, int64_t bytes);
  // Memory of a device, which `release` gives back.
  static std::shared_ptr<Storage> adopt(void* data, int64_t bytes, std::function<void()> release);
  ~Storage();
  static StorageBytes inUse();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  Storage(void* data, int64_t bytes, int64_t mapped, std::shared_ptr<BackingFile> file)
      : data_(data), bytes_(bytes), mapped_(mapped), file_(std::move(file)) {}
  void* data_;
  int64_t bytes_;
  int64_t mapped_;                     // in whole pages, of anonymous memory
  std::shared_ptr<BackingFile> file_;  // null: anonymous memory
  std::function<void()> release_;      // empty: memory of this process
};

// Has the system provide the host's memory now. Page by page, a gigabyte takes half a second to come; in huge pages a tenth
// of that.
void provideMemory(void* data, int64_t bytes);

}  // namespace hadal
