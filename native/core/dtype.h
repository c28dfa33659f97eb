// Number formats, shared with src/core/dtype.ts, and their conversions. Arithmetic is always fp32.
#pragma once
#include <cstdint>
#include <cstring>

namespace hadal {

enum class DType : int32_t { fp32 = 0, bf16 = 1, fp16 = 2, int32 = 3, uint8 = 4 };

constexpr int64_t bytesOf(DType dtype) {
  switch (dtype) {
    case DType::fp32:
    case DType::int32:
      return 4;
    case DType::bf16:
    case DType::fp16:
      return 2;
    case DType::uint8:
      return 1;
  }
  return 0;
}

constexpr bool isFloat(DType dtype) { return dtype == DType::fp32 || dtype == DType::bf16 || dtype == DType::fp16; }

// Storage of a bfloat16: the upper half of an fp32.
struct Bf16 {
  uint16_t bits;
};
#if defined(__aarch64__) && !defined(__clang__) && __GNUC__ < 13
using Fp16 = __fp16;  // the same numbers; _Float16 comes to C++ there with GCC 13
#else
using Fp16 = _Float16;
#endif

}  // namespace hadal
