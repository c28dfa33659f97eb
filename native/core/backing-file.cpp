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

// What a huge page holds on most machines.
constexpr uintptr_t hugeBytes = uintptr_t{2} << 20;

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
  // Addresses for all that the disk could hold. Where ranges lie side by side and as in the file, the system maps them by
  // huge pages: mapping such memory anew took a sixth of the time.
  struct statvfs disk;
  if (fstatvfs(file_, &disk) != 0) return;
  const size_t most = static_cast<size_t>(disk.f_bavail) * disk.f_frsize + hugeBytes;
  void* reserved = mmap(nullptr, most, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) return;
  reserved_ = reserved;
  reservedBytes_ = most;
}

BackingFile::~BackingFile() {
  close(file_);
  if (reserved_) munmap(reserved_, reservedBytes_);
}

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
  const uintptr_t first = (addressOf(reserved_) + hugeBytes - 1) / hugeBytes * hugeBytes;
  const uintptr_t wanted = first + static_cast<uintptr_t>(end_);
  const bool isReserved = reserved_ && wanted + static_cast<uintptr_t>(whole) <= addressOf(reserved_) + reservedBytes_;
  void* data = mmap(isReserved ? reinterpret_cast<void*>(wanted) : nullptr, static_cast<size_t>(whole),
                    PROT_READ | PROT_WRITE, MAP_SHARED | (isReserved ? MAP_FIXED : 0), file_, end_);
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
  const auto size = static_cast<size_t>(range.bytes);
  const bool isReserved = data >= reserved_ && addressOf(data) < addressOf(reserved_) + reservedBytes_;
  if (isReserved) {
    mmap(data, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  } else {
    munmap(data, size);
  }
  // Gives the disk its room back; a file system without holes does so when the file ends.
  (void)!fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, range.offset, range.bytes);
}

int prefetchPages(const void* data, int64_t bytes, bool forWriting) {
  const Pages pages = pagesOf(data, bytes);
  if (pages.bytes == 0) return 0;
  // Not MADV_WILLNEED before: it reads pages one by one, and huge ones are mapped six times as fast.
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
