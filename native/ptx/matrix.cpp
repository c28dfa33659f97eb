// ldmatrix and mma.sync.m16n8k16 (PTX ISA 9.7.14): by the 32 lanes of a warp together. Products of 16 bits are exact;
// their sum is taken in double precision and rounded once, because the ISA leaves order and rounding of the sum open.
#include "ptx/handlers.h"
#include "ptx/small-floats.h"

namespace hadal {
namespace ptx {
namespace {

// Row r of matrix m is where lane 8·m + r says. A lane gets of each matrix numbers 2·(lane mod 4) and the next of row
// lane / 4, or of that column.
template <bool isTransposed>
void loadMatrices(Warp& warp, const Instruction& i, uint32_t) {
  uint16_t numbers[4][8][8];
  for (int n = 0; n < i.count * 8; n++) {
    const uint64_t address = i.isWideAddress ? warp.at<uint64_t>(i.a)[n] + static_cast<uint64_t>(i.offset)
                                             : warp.at<uint32_t>(i.a)[n] + static_cast<uint32_t>(i.offset);
    memcpy(numbers[n / 8][n % 8], warp.resolve(i.space, address, 16, n), 16);
  }
  for (int m = 0; m < i.count; m++) {
    auto* const d = warp.at<uint32_t>(i.list[m]);
    for (int lane = 0; lane < lanes; lane++) {
      const int row = lane / 4, column = lane % 4 * 2;
      const uint16_t low = isTransposed ? numbers[m][column][row] : numbers[m][row][column];
      const uint16_t high = isTransposed ? numbers[m][column + 1][row] : numbers[m][row][column + 1];
      d[lane] = static_cast<uint32_t>(high) << 16 | low;
    }
  }
}

// list: 4 of d, 4 of a, 2 of b, 4 of c.
template <class T>
void multiplyAdd(Warp& warp, const Instruction& i, uint32_t) {
  double a[16][16], b[16][8], sums[16][8];
  const auto number = [&](int operand, int lane, int half) {
    const uint32_t bits = warp.at<uint32_t>(i.list[operand])[lane];
    return static_cast<double>(toFloat(T{static_cast<uint16_t>(half ? bits >> 16 : bits)}));
  };
  for (int lane = 0; lane < lanes; lane++) {
    const int group = lane >> 2, thread = lane & 3;
    for (int n = 0; n < 8; n++) {  // a's numbers of the lane, two a register
      const int row = n < 2 || (n >= 4 && n < 6) ? group : group + 8;
      const int column = thread * 2 + (n & 1) + (n >= 4 ? 8 : 0);
      a[row][column] = number(4 + n / 2, lane, n & 1);
    }
    for (int n = 0; n < 4; n++) {
      const int row = thread * 2 + (n & 1) + (n >= 2 ? 8 : 0);
      b[row][group] = number(8 + n / 2, lane, n & 1);
    }
    for (int n = 0; n < 4; n++)
      sums[n < 2 ? group : group + 8][thread * 2 + (n & 1)] = static_cast<double>(warp.at<float>(i.list[10 + n])[lane]);
  }
  for (int row = 0; row < 16; row++)
    for (int k = 0; k < 16; k++)
      for (int column = 0; column < 8; column++) sums[row][column] += a[row][k] * b[k][column];
  for (int lane = 0; lane < lanes; lane++) {
    const int group = lane >> 2, thread = lane & 3;
    for (int n = 0; n < 4; n++) {
      const auto sum = static_cast<float>(sums[n < 2 ? group : group + 8][thread * 2 + (n & 1)]);
      const uint32_t nan = 0x7fffffff;
      memcpy(&warp.at<float>(i.list[n])[lane], sum != sum ? static_cast<const void*>(&nan) : &sum, 4);
    }
  }
}

void decodeLoad(Statement& s) {
  Instruction& i = s.i;
  const Type type = s.takeType();
  i.count = s.take("x4") ? 4 : s.take("x2") ? 2 : s.take("x1") ? 1 : 0;
  const bool isTransposed = s.take("trans");
  if (!s.take("sync") || !s.take("aligned") || !s.take("m8n8") || i.count == 0 || type != Type::b16)
    s.unsupported("unknown form of the instruction");
  i.space = s.take("shared") || s.take("shared::cta") ? Space::shared : Space::generic;
  s.expectOperands(2, 2);
  const Operand& result = s.operand(0);
  const std::vector<Operand> parts = result.kind == Operand::vector ? result.parts : std::vector<Operand>{result};
  if (parts.size() != i.count) s.unsupported("a vector of another length");
  std::vector<uint32_t> places;
  for (const Operand& part : parts) places.push_back(s.destinationOf(part, Type::b32));
  i.list = s.list(std::move(places));
  s.address(s.operand(1));
  i.flow = Flow::gatherAll;
  i.run = isTransposed ? loadMatrices<true> : loadMatrices<false>;
}

void decodeProduct(Statement& s) {
  Instruction& i = s.i;
  const Type c = s.takeType(), b = s.takeType(), a = s.takeType(), d = s.takeType();
  const bool isKnown = s.take("sync") && s.take("aligned") && s.take("m16n8k16") && s.take("row") && s.take("col");
  if (!isKnown || a != b || (a != Type::f16 && a != Type::bf16) || c != Type::f32 || d != Type::f32)
    s.unsupported("unknown form of the instruction");
  s.expectOperands(4, 4);
  constexpr size_t counts[] = {4, 4, 2, 4};
  std::vector<uint32_t> places;
  for (size_t n = 0; n < 4; n++) {
    const Operand& operand = s.operand(n);
    if (operand.kind != Operand::vector || operand.parts.size() != counts[n])
      s.unsupported("a vector of another length");
    for (const Operand& part : operand.parts)
      places.push_back(n == 0 ? s.destinationOf(part, Type::f32) : s.sourceOf(part, n == 3 ? Type::f32 : Type::b32));
  }
  i.list = s.list(std::move(places));
  i.flow = Flow::gatherAll;
  i.run = a == Type::f16 ? multiplyAdd<Half> : multiplyAdd<Brain>;
}

}  // namespace

bool decodeMatrix(Statement& s) {
  if (s.isFirst("ldmatrix"))
    decodeLoad(s);
  else if (s.isFirst("mma"))
    decodeProduct(s);
  else
    return false;
  return true;
}

}  // namespace ptx
}  // namespace hadal
