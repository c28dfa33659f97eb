// cvt (PTX ISA 9.7.9): between all integers and reals. Registers may be wider than the types.
#include <cfenv>
#include <cmath>
#include <limits>
#include <type_traits>

#include "ptx/handlers.h"
#include "ptx/small-floats.h"

namespace hadal {
namespace ptx {
namespace {

enum class Round : uint8_t { none, rn, rz, rm, rp, rni, rzi, rmi, rpi };
// Packed into Instruction::offset.
struct How {
  Round round = Round::none;
  bool isSaturated = false, isFlushed = false;
  uint8_t resultBytes = 0, sourceBytes = 0;  // of the registers
};
static_assert(sizeof(How) <= 8);

template <class T>
constexpr bool isReal = std::is_floating_point_v<T> || std::is_same_v<T, Half> || std::is_same_v<T, Brain>;
template <class T>
constexpr bool isSmall = std::is_same_v<T, Half> || std::is_same_v<T, Brain>;

double widened(float x) { return x; }
double widened(double x) { return x; }
double widened(Half x) { return toFloat(x); }
double widened(Brain x) { return toFloat(x); }

template <class T>
T flushed(T x) {
  if constexpr (std::is_same_v<T, float>) return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x;
  return x;
}

double toWhole(double x, Round round) {
  switch (round) {
    case Round::rni:
      return std::nearbyint(x);
    case Round::rmi:
      return std::floor(x);
    case Round::rpi:
      return std::ceil(x);
    default:
      return std::trunc(x);
  }
}

// Clamped to the range; NaN is 0, or 2^(bits - 1) where a side has 64 bits.
template <class D, class A>
D realToInteger(A a, Round round) {
  const double x = toWhole(widened(a), round);
  if (x != x) {
    if (sizeof(A) < 8 && sizeof(D) < 8) return 0;
    return static_cast<D>(std::make_unsigned_t<D>{1} << (sizeof(D) * 8 - 1));
  }
  constexpr D least = std::numeric_limits<D>::min(), most = std::numeric_limits<D>::max();
  if (x <= static_cast<double>(least)) return least;
  // The most of 64 bits is no double: the next one is, and is out of range already.
  if (x >= static_cast<double>(most)) return most;
  return static_cast<D>(x);
}

template <class D, class A>
D convert(A a, const How& how) {
  if constexpr (!isReal<D> && !isReal<A>) {
    if (!how.isSaturated) return static_cast<D>(a);
    const auto wide = static_cast<__int128>(a);
    constexpr __int128 least = std::numeric_limits<D>::min(), most = std::numeric_limits<D>::max();
    return static_cast<D>(wide < least ? least : wide > most ? most : wide);
  } else if constexpr (!isReal<D>) {
    if (how.isFlushed) a = flushed(a);
    return realToInteger<D>(a, how.round);
  } else {
    if constexpr (isReal<A>)
      if (how.isFlushed) a = flushed(a);
    D d;
    if constexpr (isSmall<D>) {
      float x = 0;
      if constexpr (isReal<A>)
        x = static_cast<float>(widened(a));
      else
        x = static_cast<float>(a);
      if constexpr (std::is_same_v<D, Half>)
        d = toHalf(x, how.round == Round::rz);
      else
        d = toBrain(x, how.round == Round::rz);
    } else {
      if constexpr (isReal<A>) {
        const double x = how.round >= Round::rni ? toWhole(widened(a), how.round) : widened(a);
        d = static_cast<D>(x);  // in the host's rounding mode, which run() sets
      } else {
        d = static_cast<D>(a);
      }
      if (how.isFlushed) d = flushed(d);
      if (how.isSaturated) d = d >= 1 ? D{1} : d > 0 ? d : D{0};
      if (d != d) {
        const uint64_t bits = sizeof(D) == 4 ? 0x7fffffffull : 0xfff8000000000000ull;
        memcpy(&d, &bits, sizeof(D));
      }
    }
    return d;
  }
}

template <class D, class A>
void run(Warp& warp, const Instruction& i, uint32_t mask) {
  How how;
  memcpy(static_cast<void*>(&how), &i.offset, sizeof(how));
  uint8_t* const d = warp.at<uint8_t>(i.d);
  const uint8_t* const a = warp.at<uint8_t>(i.a);
  const int mode = how.round == Round::rz   ? FE_TOWARDZERO
                   : how.round == Round::rm ? FE_DOWNWARD
                   : how.round == Round::rp ? FE_UPWARD
                                            : FE_TONEAREST;
  if (mode != FE_TONEAREST) fesetround(mode);
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
    const int l = __builtin_ctz(rest);
    A from;
    memcpy(&from, a + static_cast<size_t>(l) * how.sourceBytes, sizeof(A));
    const D to = convert<D>(from, how);
    uint64_t bits = 0;
    if constexpr (isReal<D>)
      memcpy(&bits, &to, sizeof(D));
    else
      bits = static_cast<uint64_t>(static_cast<int64_t>(to));  // extended by its sign, or zeros
    if (how.resultBytes == 4)
      memcpy(d + l * 4, &bits, 4);
    else if (how.resultBytes == 2)
      memcpy(d + l * 2, &bits, 2);
    else
      memcpy(d + l * 8, &bits, 8);
  }
  if (mode != FE_TONEAREST) fesetround(FE_TONEAREST);
}

template <class F>
Handler ofType(Type type, F f) {
  switch (type) {
    case Type::u8:
      return f(uint8_t{});
    case Type::s8:
      return f(int8_t{});
    case Type::f16:
      return f(Half{});
    case Type::bf16:
      return f(Brain{});
    case Type::f32:
      return f(float{});
    case Type::f64:
      return f(double{});
    default:
      return ofInteger(type, f);
  }
}

// The first source goes to the upper half.
template <class T>
void pair(Warp& warp, const Instruction& i, uint32_t mask) {
  auto* const d = warp.at<uint32_t>(i.d);
  const float *const a = warp.at<float>(i.a), *const b = warp.at<float>(i.b);
  eachLane(mask, [&](int l) {
    if constexpr (std::is_same_v<T, Half>)
      d[l] = static_cast<uint32_t>(toHalf(a[l]).bits) << 16 | toHalf(b[l]).bits;
    else
      d[l] = static_cast<uint32_t>(toBrain(a[l]).bits) << 16 | toBrain(b[l]).bits;
  });
}

}  // namespace

bool decodeConvert(Statement& s) {
  if (!s.isFirst("cvt")) return false;
  Instruction& i = s.i;
  const Type from = s.takeType(), to = s.takeType();
  if (to == Type::bf16x2 || to == Type::f16x2) {
    if (from != Type::f32 || !s.take("rn")) s.unsupported("unknown form of the instruction");
    operands(s, 3, to, from, from);
    i.run = to == Type::f16x2 ? pair<Half> : pair<Brain>;
    return true;
  }
  How how;
  const std::pair<const char*, Round> rounds[] = {{"rn", Round::rn},   {"rz", Round::rz},   {"rm", Round::rm},
                                                  {"rp", Round::rp},   {"rni", Round::rni}, {"rzi", Round::rzi},
                                                  {"rmi", Round::rmi}, {"rpi", Round::rpi}};
  for (const auto& [name, round] : rounds)
    if (how.round == Round::none && s.take(name)) how.round = round;
  how.isSaturated = s.take("sat");
  how.isFlushed = s.take("ftz");
  const bool isToReal = ptx::isReal(to), isFromReal = ptx::isReal(from);
  // Halves: as far as kernels need them, and where rounding once is rounding right.
  const bool isToSmall = to == Type::f16 || to == Type::bf16;
  if (isToSmall && (from == Type::f64 || bytesOf(from) == 8 || bytesOf(from) == 4) && from != Type::f32)
    s.unsupported("conversion to 16 bits from more than fp32 holds");
  if (isToSmall && (how.isSaturated || (how.round != Round::rn && how.round != Round::rz)))
    s.unsupported("unknown form of the instruction");
  if (isFromReal && !isToReal && how.round < Round::rni)
    s.unsupported("a conversion to an integer without rounding to one");
  s.expectOperands(2, 2);
  int resultBytes = 0, sourceBytes = 0;
  i.d = s.wideDestination(s.operand(0), to, resultBytes);
  i.a = s.wideSource(s.operand(1), from, sourceBytes);
  how.resultBytes = static_cast<uint8_t>(resultBytes), how.sourceBytes = static_cast<uint8_t>(sourceBytes);
  memcpy(&i.offset, &how, sizeof(how));
  i.run = ofType(to, [&](auto d) -> Handler {
    return ofType(from, [](auto a) -> Handler { return run<decltype(d), decltype(a)>; });
  });
  if (!i.run) s.unsupported("unknown form of the instruction");
  return true;
}

}  // namespace ptx
}  // namespace hadal
