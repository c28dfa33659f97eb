// Halves and bfloat16s as the ISA converts them: to nearest even, NaN to the canonical NaN.
#pragma once
#include <cstdint>
#include <cstring>

namespace hadal {
namespace ptx {

struct Half {
  uint16_t bits;
};
struct Brain {
  uint16_t bits;
};

inline float toFloat(Brain x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float y;
  memcpy(&y, &bits, 4);
  return y;
}
inline float toFloat(Half x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000) << 16, exponent = x.bits >> 10 & 31,
                 fraction = x.bits & 0x3ff;
  if (exponent == 0) return (sign ? -0x1p-24f : 0x1p-24f) * static_cast<float>(fraction);
  const uint32_t bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | fraction << 13;
  float y;
  memcpy(&y, &bits, 4);
  return y;
}

// Toward zero where `isCut`, else to nearest even.
inline Brain toBrain(float x, bool isCut = false) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return {0x7fff};
  if (!isCut) bits += 0x7fff + (bits >> 16 & 1);
  return {static_cast<uint16_t>(bits >> 16)};
}
inline Half toHalf(float x, bool isCut = false) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return {0x7fff};
  if (magnitude >= 0x47800000)  // 2^16 and more
    return {static_cast<uint16_t>(sign | (isCut && magnitude < 0x7f800000 ? 0x7bff : 0x7c00))};
  const uint32_t exponent = magnitude >> 23;
  // Normal halves keep 10 of 23 bits; below 2^-14 the steps stay 2^-24.
  const bool isNormal = exponent >= 113;
  const uint32_t shift = isNormal ? 13 : 126 - exponent;
  const uint32_t kept = isNormal ? magnitude - (112u << 23) : (magnitude & 0x7fffff) | (exponent ? 0x800000u : 0);
  if (shift > 25) return {static_cast<uint16_t>(sign)};
  uint32_t result = kept >> shift;
  const uint32_t rest = kept & ((1u << shift) - 1), half = 1u << (shift - 1);
  if (!isCut && (rest > half || (rest == half && (result & 1)))) result++;
  return {static_cast<uint16_t>(sign | result)};
}

}  // namespace ptx
}  // namespace hadal
