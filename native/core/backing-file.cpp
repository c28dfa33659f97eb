#include "core/backing-file.h"

#include <cerrno>
#include <system_error>

#ifdef __linux__
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>

namespace hadal {

namespace {

// Since Linux 5.14; C libraries before that do not name them.
constexpr int populateRead = 22, populateWrite = 23;

struct Range {
  int64_t bytes;
  int file;
  int64_t offset;
};

// What is mapped of backing files, by address.
struct Ranges {
  std::mutex mutex;
  std::map<uintptr_t, Range> byAddress;
};
Ranges& ranges() {
  static auto* all = new Ranges;  // for good: storages may outlive static objects
  return *all;
}

uintptr_t addressOf(const void* data) { return reinterpret_cast<uintptr_t>(data); }
uintptr_t pageBytes() {
  static const auto bytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

// The whole pages that hold a part of a mapped range; no bytes where there is no such range.
struct Pages {
  void* begin = nullptr;
  size_t bytes = 0;
  int file = -1;
  int64_t offset = 0;
};
Pages pagesOf(const void* data, int64_t bytes) {
  Ranges& all = ranges();
  std::lock_guard lock(all.mutex);
  auto next = all.byAddress.upper_bound(addressOf(data));
  if (bytes <= 0 || next == all.byAddress.begin()) return {};
  const auto& [start, range] = *--next;
  const uintptr_t end = start + static_cast<uintptr_t>(range.bytes), page = pageBytes();
  if (addressOf(data) >= end) return {};
  const uintptr_t from = addressOf(data) / page * page;
  const uintptr_t to = std::min(end, (addressOf(data) + static_cast<uintptr_t>(bytes) + page - 1) / page * page);
  return {reinterpret_cast<void*>(from), to - from, range.file, range.offset + static_cast<int64_t>(from - start)};
}

[[noreturn]] void refuse(int error) { throw std::system_error(error, std::generic_category()); }

}  // namespace

BackingFile::BackingFile(const char* directory) {
  std::string path = std::string(directory) + "/.hadal-XXXXXX";
  file_ = mkostemp(path.data(), O_CLOEXEC);
  if (file_ < 0) refuse(errno);
  unlink(path.c_str());  // while it is empty: a process that is killed here leaves nothing worth a name
}

BackingFile::~BackingFile() { close(file_); }

void* BackingFile::map(int64_t bytes) {
  const auto page = static_cast<int64_t>(pageBytes());
  const int64_t whole = std::max(page, (bytes + page - 1) / page * page);
  struct statvfs disk;
  // posix_fallocate would fill the disk before it gives up.
  if (fstatvfs(file_, &disk) == 0 &&
      static_cast<double>(disk.f_bavail) * static_cast<double>(disk.f_frsize) < static_cast<double>(whole))
    refuse(ENOSPC);
  int error;
  do error = posix_fallocate(file_, end_, whole);
  while (error == EINTR);
  if (error) refuse(error);
  void* data = mmap(nullptr, static_cast<size_t>(whole), PROT_READ | PROT_WRITE, MAP_SHARED, file_, end_);
  if (data == MAP_FAILED) refuse(errno);
  Ranges& all = ranges();
  std::lock_guard lock(all.mutex);
  all.byAddress[addressOf(data)] = {whole, file_, end_};
  end_ += whole;
  return data;
}

void BackingFile::unmap(void* data) {
  Ranges& all = ranges();
  std::unique_lock lock(all.mutex);
  const Range range = all.byAddress.at(addressOf(data));
  all.byAddress.erase(addressOf(data));
  lock.unlock();
  munmap(data, static_cast<size_t>(range.bytes));
  // Gives the disk its room back; a file system without holes does so when the file ends.
  (void)!fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, range.offset, range.bytes);
}

int prefetchPages(const void* data, int64_t bytes, bool forWriting) {
  const Pages pages = pagesOf(data, bytes);
  if (pages.bytes == 0) return 0;
  // Reading begins for all pages at once, and goes on while the first ones are mapped.
  madvise(pages.begin, pages.bytes, MADV_WILLNEED);
  if (madvise(pages.begin, pages.bytes, forWriting ? populateWrite : populateRead) == 0) return 0;
  // An older Linux maps pages as they are used.
  return errno == EINVAL ? 0 : errno;
}

int releasePages(const void* data, int64_t bytes) {
  const Pages pages = pagesOf(data, bytes);
  if (pages.bytes == 0) return 0;
  madvise(pages.begin, pages.bytes, MADV_DONTNEED);  // of a shared mapping: what was written stays with the file
  if (sync_file_range(pages.file, pages.offset, static_cast<off64_t>(pages.bytes), SYNC_FILE_RANGE_WRITE) == 0)
    return 0;
  // Where a file system cannot be told to begin, it does so by itself.
  return errno == EIO || errno == ENOSPC ? errno : 0;
}

}  // namespace hadal

#else

namespace hadal {

BackingFile::BackingFile(const char*) : file_(-1) {
  throw std::system_error(ENOTSUP, std::generic_category(), "only Linux can keep tensors in a file");
}
BackingFile::~BackingFile() = default;
void* BackingFile::map(int64_t) { return nullptr; }
void BackingFile::unmap(void*) {}
int prefetchPages(const void*, int64_t, bool) { return 0; }
int releasePages(const void*, int64_t) { return 0; }

}  // namespace hadal

#endif
