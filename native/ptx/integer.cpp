// Arithmetic and logic of integers (PTX ISA 9.7.1, 9.7.8).
#include <climits>
#include <type_traits>

#include "ptx/handlers.h"

namespace hadal {
namespace ptx {
namespace {

template <class T>
using Unsigned = std::make_unsigned_t<T>;
template <class T>
constexpr int bits = sizeof(T) * 8;

// Twice as wide.
template <class T>
struct WideOf;
template <>
struct WideOf<uint16_t> {
  using type = uint32_t;
};
template <>
struct WideOf<int16_t> {
  using type = int32_t;
};
template <>
struct WideOf<uint32_t> {
  using type = uint64_t;
};
template <>
struct WideOf<int32_t> {
  using type = int64_t;
};
template <>
struct WideOf<uint64_t> {
  using type = unsigned __int128;
};
template <>
struct WideOf<int64_t> {
  using type = __int128;
};
template <class T>
using Wide = typename WideOf<T>::type;

struct Add {
  template <class T>
  static T of(T a, T b) {
    return static_cast<T>(static_cast<Unsigned<T>>(a) + static_cast<Unsigned<T>>(b));
  }
};
struct Subtract {
  template <class T>
  static T of(T a, T b) {
    return static_cast<T>(static_cast<Unsigned<T>>(a) - static_cast<Unsigned<T>>(b));
  }
};
struct AddSaturated {
  static int32_t of(int32_t a, int32_t b) {
    const int64_t sum = static_cast<int64_t>(a) + b;
    return static_cast<int32_t>(sum > INT_MAX ? INT_MAX : sum < INT_MIN ? INT_MIN : sum);
  }
};
struct SubtractSaturated {
  static int32_t of(int32_t a, int32_t b) {
    const int64_t sum = static_cast<int64_t>(a) - b;
    return static_cast<int32_t>(sum > INT_MAX ? INT_MAX : sum < INT_MIN ? INT_MIN : sum);
  }
};
struct MultiplyLow {
  template <class T>
  static T of(T a, T b) {
    // Not in 16 bits, which C++ would widen to a signed int.
    return static_cast<T>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
  }
};
struct MultiplyHigh {
  template <class T>
  static T of(T a, T b) {
    return static_cast<T>(static_cast<Wide<T>>(a) * static_cast<Wide<T>>(b) >> bits<T>);
  }
};
struct MultiplyWide {
  template <class T>
  static Wide<T> of(T a, T b) {
    return static_cast<Wide<T>>(a) * static_cast<Wide<T>>(b);
  }
};
struct MultiplyAddLow {
  template <class T>
  static T of(T a, T b, T c) {
    return Add::of(MultiplyLow::of(a, b), c);
  }
};
struct MultiplyAddHigh {
  template <class T>
  static T of(T a, T b, T c) {
    return Add::of(MultiplyHigh::of(a, b), c);
  }
};
struct MultiplyAddWide {
  template <class T>
  static Wide<T> of(T a, T b, Wide<T> c) {
    return Add::of(MultiplyWide::of(a, b), c);
  }
};
// Of the lower 24 bits.
struct Multiply24 {
  template <class T>
  static int64_t product(T a, T b) {
    constexpr int unused = 8;
    return static_cast<int64_t>(static_cast<T>(static_cast<uint32_t>(a) << unused) >> unused) *
           static_cast<int64_t>(static_cast<T>(static_cast<uint32_t>(b) << unused) >> unused);
  }
  template <class T>
  static T of(T a, T b) {
    return static_cast<T>(product(a, b));
  }
  template <class T>
  static T of(T a, T b, T c) {
    return Add::of(of(a, b), c);
  }
};
// By zero: the ISA leaves the result open; here all bits are set, as GPUs do.
struct Divide {
  template <class T>
  static T of(T a, T b) {
    if (b == 0) return static_cast<T>(-1);
    if constexpr (std::is_signed_v<T>)
      if (b == -1) return Subtract::of(T{0}, a);
    return static_cast<T>(a / b);
  }
};
struct Remainder {
  template <class T>
  static T of(T a, T b) {
    if (b == 0) return a;
    if constexpr (std::is_signed_v<T>)
      if (b == -1) return 0;
    return static_cast<T>(a % b);
  }
};
struct Absolute {
  template <class T>
  static T of(T a) {
    return a < 0 ? Subtract::of(T{0}, a) : a;
  }
};
struct Negate {
  template <class T>
  static T of(T a) {
    return Subtract::of(T{0}, a);
  }
};
struct Minimum {
  template <class T>
  static T of(T a, T b) {
    return b < a ? b : a;
  }
};
struct Maximum {
  template <class T>
  static T of(T a, T b) {
    return a < b ? b : a;
  }
};
struct SumOfDifferences {
  template <class T>
  static T of(T a, T b, T c) {
    return Add::of(c, a < b ? Subtract::of(b, a) : Subtract::of(a, b));
  }
};
struct And {
  template <class T>
  static T of(T a, T b) {
    return a & b;
  }
};
struct Or {
  template <class T>
  static T of(T a, T b) {
    return a | b;
  }
};
struct Xor {
  template <class T>
  static T of(T a, T b) {
    return a ^ b;
  }
};
struct Not {
  template <class T>
  static T of(T a) {
    return static_cast<T>(~a);
  }
};
struct LogicalNot {
  template <class T>
  static T of(T a) {
    return a == 0;
  }
};
// Shifts by more than the width leave nothing, or the sign.
struct ShiftLeft {
  template <class T>
  static T of(T a, uint32_t n) {
    return n >= bits<T> ? 0 : static_cast<T>(static_cast<uint64_t>(a) << n);
  }
};
struct ShiftRight {
  template <class T>
  static T of(T a, uint32_t n) {
    if (n < bits<T>) return static_cast<T>(a >> n);
    return a < 0 ? static_cast<T>(-1) : T{0};
  }
};
template <bool isLeft, bool isWrapped>
struct FunnelShift {
  static uint32_t of(uint32_t a, uint32_t b, uint32_t c) {
    const uint32_t n = isWrapped ? c & 31 : c > 32 ? 32 : c;
    const uint64_t both = static_cast<uint64_t>(b) << 32 | a;
    if constexpr (isLeft) return n == 32 ? a : static_cast<uint32_t>(both << n >> 32);
    return static_cast<uint32_t>(both >> n);
  }
};
struct PopulationCount {
  template <class T>
  static uint32_t of(T a) {
    return static_cast<uint32_t>(__builtin_popcountll(a));
  }
};
struct LeadingZeros {
  template <class T>
  static uint32_t of(T a) {
    return a == 0 ? bits<T> : static_cast<uint32_t>(__builtin_clzll(a)) - (64 - bits<T>);
  }
};
// The most significant bit that is not the sign; -1 where there is none.
template <bool isShiftAmount>
struct FindBit {
  template <class T>
  static uint32_t of(T value) {
    const auto a = static_cast<Unsigned<T>>(value < 0 ? static_cast<T>(~value) : value);
    if (a == 0) return ~0u;
    const uint32_t at = bits<T> - 1 - LeadingZeros::of(a);
    return isShiftAmount ? bits<T> - 1 - at : at;
  }
};
struct ReverseBits {
  template <class T>
  static T of(T a) {
    T reversed = 0;
    for (int n = 0; n < bits<T>; n++) reversed = static_cast<T>(reversed | (a >> n & 1) << (bits<T> - 1 - n));
    return reversed;
  }
};
struct Extract {
  template <class T>
  static T of(T a, uint32_t b, uint32_t c) {
    const uint32_t from = b & 0xff, count = c & 0xff, most = bits<T> - 1;
    const auto u = static_cast<Unsigned<T>>(a);
    Unsigned<T> sign = 0;
    if (std::is_signed_v<T> && count > 0) sign = u >> std::min(from + count - 1, most) & 1;
    Unsigned<T> d = 0;
    for (uint32_t n = 0; n <= most; n++) {
      const Unsigned<T> bit = n < count && from + n <= most ? u >> (from + n) & 1 : sign;
      d |= bit << n;
    }
    return static_cast<T>(d);
  }
};
template <class T>
void insertBits(Warp& warp, const Instruction& i, uint32_t mask) {
  T* const d = warp.at<T>(i.d);
  const T *const a = warp.at<T>(i.a), *const b = warp.at<T>(i.b);
  const uint32_t *const from = warp.at<uint32_t>(i.list[0]), *const counts = warp.at<uint32_t>(i.list[1]);
  eachLane(mask, [&](int l) {
    const uint32_t at = from[l] & 0xff, count = counts[l] & 0xff;
    T field = 0;
    for (uint32_t n = at; n < bits<T> && n - at < count; n++) field |= T{1} << n;
    d[l] = at < bits<T> ? (b[l] & ~field) | (a[l] << at & field) : b[l];
  });
}

// Byte permutation; modes of the ISA's table.
template <char mode>
struct Permute {
  static uint32_t of(uint32_t a, uint32_t b, uint32_t c) {
    const uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
    uint32_t d = 0;
    for (uint32_t n = 0; n < 4; n++) {
      const uint32_t s = c & 3;
      uint32_t from = 0;
      bool isSign = false;
      if (mode == 'i') from = c >> (4 * n) & 7, isSign = c >> (4 * n + 3) & 1;
      if (mode == 'f') from = s + n;
      if (mode == 'b') from = (s + 8 - n) & 7;
      if (mode == 'r') from = s;
      if (mode == 'l') from = std::max(n, s);
      if (mode == 'e') from = std::min(n, s);
      if (mode == 'h') from = (s & 1) * 2 + (n & 1);
      uint32_t byte = static_cast<uint32_t>(bytes >> (8 * from)) & 0xff;
      if (isSign) byte = byte & 0x80 ? 0xff : 0;
      d |= byte << (8 * n);
    }
    return d;
  }
};

// Any function of three bits, from its table.
void lookUp(Warp& warp, const Instruction& i, uint32_t mask) {
  auto* const d = warp.at<uint32_t>(i.d);
  const uint32_t *const a = warp.at<uint32_t>(i.a), *const b = warp.at<uint32_t>(i.b),
                        *const c = warp.at<uint32_t>(i.c);
  const auto table = static_cast<uint32_t>(i.offset);
  eachLane(mask, [&](int l) {
    uint32_t result = 0;
    for (uint32_t row = 0; row < 8; row++)
      if (table >> row & 1) result |= (row & 4 ? a[l] : ~a[l]) & (row & 2 ? b[l] : ~b[l]) & (row & 1 ? c[l] : ~c[l]);
    d[l] = result;
  });
}

template <class A, class B>
struct DotProduct {
  static uint32_t of(uint32_t a, uint32_t b, uint32_t c) {
    for (int n = 0; n < 32; n += 8)
      c += static_cast<uint32_t>(static_cast<int32_t>(static_cast<A>(a >> n)) *
                                 static_cast<int32_t>(static_cast<B>(b >> n)));
    return c;
  }
};

// Predicates: all lanes at once.
struct PredicateAnd {
  static uint32_t of(uint32_t a, uint32_t b) { return a & b; }
};
struct PredicateOr {
  static uint32_t of(uint32_t a, uint32_t b) { return a | b; }
};
struct PredicateXor {
  static uint32_t of(uint32_t a, uint32_t b) { return a ^ b; }
};
struct PredicateNot {
  static uint32_t of(uint32_t a, uint32_t) { return ~a; }
};
template <class F>
void ofPredicates(Warp& warp, const Instruction& i, uint32_t mask) {
  warp.setPredicate(i.d, mask, F::of(warp.predicate(i.a), warp.predicate(i.b)));
}

template <class F>
Handler unaryOf(Type type) {
  return ofInteger(type, [](auto t) -> Handler { return unary<decltype(t), decltype(t), F>; });
}
template <class F>
Handler binaryOf(Type type) {
  return ofInteger(type, [](auto t) -> Handler { return binary<decltype(t), decltype(t), decltype(t), F>; });
}
template <class F>
Handler ternaryOf(Type type) {
  return ofInteger(type,
                   [](auto t) -> Handler { return ternary<decltype(t), decltype(t), decltype(t), decltype(t), F>; });
}
template <class F>
Handler bitwiseOf(Type type) {
  return ofBits(type, [](auto t) -> Handler { return binary<decltype(t), decltype(t), decltype(t), F>; });
}

Type wider(Type type) {
  switch (type) {
    case Type::u16:
      return Type::u32;
    case Type::s16:
      return Type::s32;
    case Type::u32:
      return Type::u64;
    case Type::s32:
      return Type::s64;
    default:
      return Type::none;
  }
}

bool isArithmetic(const Statement& s, Type type) {
  for (const std::string_view name :
       {"add", "sub", "mul", "mad", "mul24", "mad24", "div", "rem", "abs", "neg", "min", "max", "sad"})
    if (s.isFirst(name)) return type >= Type::u16 && type <= Type::s64;
  return false;
}

void decodeArithmetic(Statement& s, Type type) {
  Instruction& i = s.i;
  const bool is24 = s.isFirst("mul24") || s.isFirst("mad24");
  if (s.isFirst("mul") || s.isFirst("mad") || is24) {
    const bool adds = s.isFirst("mad") || s.isFirst("mad24");
    const size_t count = adds ? 4 : 3;
    if (s.take("wide") && !is24) {
      const Type wide = wider(type);
      if (wide == Type::none) s.unsupported("no wider type");
      operands(s, count, wide, type, type, wide);
      i.run = ofInteger(type, [&](auto t) -> Handler {
        using T = decltype(t);
        if constexpr (sizeof(T) == 8)
          return nullptr;
        else
          return adds ? Handler(ternary<Wide<T>, T, T, Wide<T>, MultiplyAddWide>) : binary<Wide<T>, T, T, MultiplyWide>;
      });
    } else if (s.take("lo")) {
      operands(s, count, type, type, type, type);
      if (is24)
        i.run = type == Type::s32   ? (adds ? Handler(ternary<int32_t, int32_t, int32_t, int32_t, Multiply24>)
                                            : binary<int32_t, int32_t, int32_t, Multiply24>)
                : type == Type::u32 ? (adds ? Handler(ternary<uint32_t, uint32_t, uint32_t, uint32_t, Multiply24>)
                                            : binary<uint32_t, uint32_t, uint32_t, Multiply24>)
                                    : nullptr;
      else
        i.run = adds ? ternaryOf<MultiplyAddLow>(type) : binaryOf<MultiplyLow>(type);
    } else if (!is24 && s.take("hi")) {
      operands(s, count, type, type, type, type);
      i.run = adds ? ternaryOf<MultiplyAddHigh>(type) : binaryOf<MultiplyHigh>(type);
    }
  } else if (s.isFirst("abs") || s.isFirst("neg")) {
    operands(s, 2, type, type);
    if (isSigned(type)) i.run = s.isFirst("abs") ? unaryOf<Absolute>(type) : unaryOf<Negate>(type);
  } else if (s.isFirst("sad")) {
    operands(s, 4, type, type, type, type);
    i.run = ternaryOf<SumOfDifferences>(type);
  } else {
    operands(s, 3, type, type, type);
    if (s.isFirst("add"))
      i.run = s.take("sat") ? (type == Type::s32 ? Handler(binary<int32_t, int32_t, int32_t, AddSaturated>) : nullptr)
                            : binaryOf<Add>(type);
    if (s.isFirst("sub"))
      i.run = s.take("sat")
                  ? (type == Type::s32 ? Handler(binary<int32_t, int32_t, int32_t, SubtractSaturated>) : nullptr)
                  : binaryOf<Subtract>(type);
    if (s.isFirst("div")) i.run = binaryOf<Divide>(type);
    if (s.isFirst("rem")) i.run = binaryOf<Remainder>(type);
    if (s.isFirst("min")) i.run = binaryOf<Minimum>(type);
    if (s.isFirst("max")) i.run = binaryOf<Maximum>(type);
  }
}

void decodeLogic(Statement& s, Type type) {
  Instruction& i = s.i;
  if (type == Type::pred) {
    const bool isNot = s.isFirst("not");
    s.expectOperands(isNot ? 2 : 3, isNot ? 2 : 3);
    bool isNegated = false, isOtherNegated = false;
    i.d = s.destination(0, Type::pred);
    i.a = s.predicateSource(s.operand(1), isNegated);
    i.b = isNot ? i.a : s.predicateSource(s.operand(2), isOtherNegated);
    if (isNegated || isOtherNegated) s.unsupported("a negated operand");
    i.run = s.isFirst("and")   ? Handler(ofPredicates<PredicateAnd>)
            : s.isFirst("or")  ? ofPredicates<PredicateOr>
            : s.isFirst("xor") ? ofPredicates<PredicateXor>
            : isNot            ? ofPredicates<PredicateNot>
                               : nullptr;
    return;
  }
  if (s.isFirst("not") || s.isFirst("cnot")) {
    operands(s, 2, type, type);
    const bool isLogical = s.isFirst("cnot");
    i.run = ofBits(type, [&](auto t) -> Handler {
      using T = decltype(t);
      return isLogical ? Handler(unary<T, T, LogicalNot>) : unary<T, T, Not>;
    });
    return;
  }
  operands(s, 3, type, type, type);
  i.run = s.isFirst("and") ? bitwiseOf<And>(type) : s.isFirst("or") ? bitwiseOf<Or>(type) : bitwiseOf<Xor>(type);
}

void decodeBits(Statement& s) {
  Instruction& i = s.i;
  if (s.isFirst("shf")) {
    const bool isLeft = s.take("l"), isRight = s.take("r"), isWrapped = s.take("wrap"), isClamped = s.take("clamp");
    if (isLeft == isRight || isWrapped == isClamped || s.takeType() != Type::b32) s.unsupported("unknown form");
    operands(s, 4, Type::b32, Type::b32, Type::b32, Type::u32);
    using U = uint32_t;
    i.run = isLeft ? (isWrapped ? Handler(ternary<U, U, U, U, FunnelShift<true, true>>)
                                : ternary<U, U, U, U, FunnelShift<true, false>>)
                   : (isWrapped ? Handler(ternary<U, U, U, U, FunnelShift<false, true>>)
                                : ternary<U, U, U, U, FunnelShift<false, false>>);
    return;
  }
  if (s.isFirst("prmt")) {
    char mode = 'i';
    for (const auto& [name, letter] :
         {std::pair{"f4e", 'f'}, {"b4e", 'b'}, {"rc8", 'r'}, {"ecl", 'l'}, {"ecr", 'e'}, {"rc16", 'h'}})
      if (s.take(name)) mode = letter;
    if (s.takeType() != Type::b32) s.unsupported("unknown form");
    operands(s, 4, Type::b32, Type::b32, Type::b32, Type::u32);
    using U = uint32_t;
    switch (mode) {
      case 'f':
        i.run = ternary<U, U, U, U, Permute<'f'>>;
        break;
      case 'b':
        i.run = ternary<U, U, U, U, Permute<'b'>>;
        break;
      case 'r':
        i.run = ternary<U, U, U, U, Permute<'r'>>;
        break;
      case 'l':
        i.run = ternary<U, U, U, U, Permute<'l'>>;
        break;
      case 'e':
        i.run = ternary<U, U, U, U, Permute<'e'>>;
        break;
      case 'h':
        i.run = ternary<U, U, U, U, Permute<'h'>>;
        break;
      default:
        i.run = ternary<U, U, U, U, Permute<'i'>>;
    }
    return;
  }
  if (s.isFirst("lop3")) {
    if (s.takeType() != Type::b32) s.unsupported("unknown form");
    s.expectOperands(5, 5);
    i.offset = s.integer(4);
    s.operands.pop_back();
    operands(s, 4, Type::b32, Type::b32, Type::b32, Type::b32);
    i.run = lookUp;
    return;
  }
  if (s.isFirst("dp4a")) {
    const Type b = s.takeType(), a = s.takeType();
    operands(s, 4, Type::b32, Type::b32, Type::b32, Type::b32);
    using U = uint32_t;
    const bool isA = a == Type::s32, isB = b == Type::s32;
    if ((!isA && a != Type::u32) || (!isB && b != Type::u32)) s.unsupported("unknown form");
    i.run = isA ? (isB ? Handler(ternary<U, U, U, U, DotProduct<int8_t, int8_t>>)
                       : ternary<U, U, U, U, DotProduct<int8_t, uint8_t>>)
                : (isB ? Handler(ternary<U, U, U, U, DotProduct<uint8_t, int8_t>>)
                       : ternary<U, U, U, U, DotProduct<uint8_t, uint8_t>>);
    return;
  }
  const bool isShiftAmount = s.isFirst("bfind") && s.take("shiftamt");
  const Type type = s.takeType();
  if (s.isFirst("shl")) {
    operands(s, 3, type, type, Type::u32);
    i.run = ofBits(type, [](auto t) -> Handler { return binary<decltype(t), decltype(t), uint32_t, ShiftLeft>; });
  } else if (s.isFirst("shr")) {
    operands(s, 3, type, type, Type::u32);
    const auto make = [](auto t) -> Handler { return binary<decltype(t), decltype(t), uint32_t, ShiftRight>; };
    i.run = isSigned(type) ? ofInteger(type, make) : ofBits(type, make);
  } else if (s.isFirst("bfe")) {
    operands(s, 4, type, type, Type::u32, Type::u32);
    i.run = ofInteger(type, [](auto t) -> Handler {
      using T = decltype(t);
      if constexpr (sizeof(T) == 2)
        return nullptr;
      else
        return ternary<T, T, uint32_t, uint32_t, Extract>;
    });
  } else if (s.isFirst("bfi")) {
    s.expectOperands(5, 5);
    i.d = s.destination(0, type), i.a = s.source(1, type), i.b = s.source(2, type);
    i.list = s.list({s.source(3, Type::u32), s.source(4, Type::u32)});
    i.run = type == Type::b32 ? Handler(insertBits<uint32_t>) : type == Type::b64 ? insertBits<uint64_t> : nullptr;
  } else if (s.isFirst("popc") || s.isFirst("clz")) {
    operands(s, 2, Type::u32, type);
    const bool isCount = s.isFirst("popc");
    if (type == Type::b32)
      i.run = isCount ? Handler(unary<uint32_t, uint32_t, PopulationCount>) : unary<uint32_t, uint32_t, LeadingZeros>;
    if (type == Type::b64)
      i.run = isCount ? Handler(unary<uint32_t, uint64_t, PopulationCount>) : unary<uint32_t, uint64_t, LeadingZeros>;
  } else if (s.isFirst("bfind")) {
    operands(s, 2, Type::u32, type);
    i.run = ofInteger(type, [&](auto t) -> Handler {
      using T = decltype(t);
      if constexpr (sizeof(T) == 2)
        return nullptr;
      else
        return isShiftAmount ? Handler(unary<uint32_t, T, FindBit<true>>) : unary<uint32_t, T, FindBit<false>>;
    });
  } else if (s.isFirst("brev")) {
    operands(s, 2, type, type);
    i.run = type == Type::b32   ? Handler(unary<uint32_t, uint32_t, ReverseBits>)
            : type == Type::b64 ? unary<uint64_t, uint64_t, ReverseBits>
                                : nullptr;
  }
}

}  // namespace

bool decodeInteger(Statement& s) {
  const Type last = s.parts.empty() ? Type::none : typeNamed(s.parts.back());
  if (isArithmetic(s, last)) {
    decodeArithmetic(s, s.takeType());
  } else if (s.isFirst("and") || s.isFirst("or") || s.isFirst("xor") || s.isFirst("not") || s.isFirst("cnot")) {
    decodeLogic(s, s.takeType());
  } else {
    bool isBits = false;
    for (const std::string_view name :
         {"shl", "shr", "shf", "prmt", "lop3", "dp4a", "bfe", "bfi", "popc", "clz", "bfind", "brev"})
      isBits |= s.isFirst(name);
    if (!isBits) return false;
    decodeBits(s);
  }
  if (!s.i.run) s.unsupported("unknown form of the instruction");
  return true;
}

}  // namespace ptx
}  // namespace hadal
