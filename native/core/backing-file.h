// A file without a name, ranges of which are mapped as memory: the system reads and writes it as it needs the room, and the
// file is gone when the process is, however that ends. Linux only.
#pragma once
#include <cstddef>
#include <cstdint>

namespace hadal {

class BackingFile {
 public:
  // Throws std::system_error where there can be no such file in the directory.
  explicit BackingFile(const char* directory);
  ~BackingFile();
  BackingFile(const BackingFile&) = delete;
  BackingFile& operator=(const BackingFile&) = delete;

  // Zeros, in whole pages. The disk has room for them from now on, so that no write can fail for want of it. Throws
  // std::system_error.
  void* map(int64_t bytes);
  void unmap(void* data);

 private:
  int file_;
  int64_t end_ = 0;           // where the next range begins
  void* reserved_ = nullptr;  // addresses to map ranges at; null: anywhere
  size_t reservedBytes_ = 0;
};

// Both change when memory is resident, never what it holds. They pass over memory that lies in no backing file, and
// return 0 or the errno of what the disk refused.

// Reads the pages from the disk where they are not in memory, and maps them; `forWriting` such that a write faults no more.
int prefetchPages(const void* data, int64_t bytes, bool forWriting);
// Begins to write changed pages to the disk, and lets the system have them all.
int releasePages(const void* data, int64_t bytes);

}  // namespace hadal
