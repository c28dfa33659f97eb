// Numbers of 16 bits as a GPU converts them: to nearest even, NaN to the one NaN that it knows.
#pragma once
#include <bit>
#include <cstdint>

namespace hadal {
namespace sim {

constexpr uint32_t onlyNan = 0x7fffffff;

inline float floatOfBf16(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

inline float floatOfF16(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16, rest = bits & 0x7fff;
  if (rest > 0x7c00) return std::bit_cast<float>(onlyNan);
  if (rest == 0x7c00) return std::bit_cast<float>(sign | 0x7f800000);
  // The exponent is moved by a product, which makes normal numbers of denormals.
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(std::bit_cast<float>(rest << 13) * 0x1p112f));
}

inline uint16_t bf16OfFloat(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline uint16_t f16OfFloat(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const uint32_t rest = bits & 0x7fffffff;
  if (rest > 0x7f800000) return 0x7fff;
  if (rest >= 0x477ff000) return sign | 0x7c00;  // 65520 and above round to infinity
  if (rest < 0x38800000)                         // denormals: the sum has their unit as its last bit
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(std::bit_cast<float>(rest) + 0.5f) - 0x3f000000));
  return static_cast<uint16_t>(sign | ((rest + 0xfff + (rest >> 13 & 1) - (112u << 23)) >> 13));
}

}  // namespace sim
}  // namespace hadal
