// A recorded call of a kernel, in memory and in a file.
#pragma once
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "core/kernel.h"

namespace hadal {
namespace sim {

struct RecordedBuffer {
  int64_t bytes = 0;
  Access access = Access::in;
  bool isPresent = true, isPinned = false;
  int32_t sameAs = -1;  // the buffer whose memory it is, too
  std::vector<char> before, after;
};

struct RecordedCall {
  std::string kernel;
  std::vector<char> params;
  std::vector<RecordedBuffer> buffers;
  int64_t workspaceBytes = 0;
  int32_t processors = 1;
  bool raisesFault = false;

  void write(FILE* file) const {
    put(file, magic);
    put(file, kernel);
    put(file, params);
    put(file, workspaceBytes);
    put(file, processors);
    put(file, raisesFault);
    put(file, static_cast<int64_t>(buffers.size()));
    for (const RecordedBuffer& b : buffers) {
      put(file, b.bytes);
      put(file, b.access);
      put(file, b.isPresent);
      put(file, b.isPinned);
      put(file, b.sameAs);
      put(file, b.before);
      put(file, b.after);
    }
  }
  // False at the end of the file, or where it is cut off.
  bool read(FILE* file) {
    uint32_t start = 0;
    int64_t count = 0;
    if (!get(file, start) || start != magic) return false;
    if (!get(file, kernel) || !get(file, params) || !get(file, workspaceBytes) || !get(file, processors) ||
        !get(file, raisesFault) || !get(file, count))
      return false;
    buffers.assign(static_cast<size_t>(count), {});
    for (RecordedBuffer& b : buffers)
      if (!get(file, b.bytes) || !get(file, b.access) || !get(file, b.isPresent) || !get(file, b.isPinned) ||
          !get(file, b.sameAs) || !get(file, b.before) || !get(file, b.after))
        return false;
    return true;
  }

 private:
  static constexpr uint32_t magic = 0x4c414348;  // HCAL

  template <class T>
  static void put(FILE* file, const T& value) {
    if constexpr (requires { value.data(); }) {
      put(file, static_cast<int64_t>(value.size()));
      std::fwrite(value.data(), 1, value.size(), file);
    } else {
      std::fwrite(&value, sizeof(value), 1, file);
    }
  }
  template <class T>
  static bool get(FILE* file, T& value) {
    if constexpr (requires { value.data(); }) {
      int64_t size = 0;
      if (!get(file, size) || size < 0) return false;
      value.resize(static_cast<size_t>(size));
      return std::fread(value.data(), 1, value.size(), file) == value.size();
    } else {
      return std::fread(&value, sizeof(value), 1, file) == 1;
    }
  }
};

}  // namespace sim
}  // namespace hadal
