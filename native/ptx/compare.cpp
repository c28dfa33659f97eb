// Comparisons and selections (PTX ISA 9.7.6): setp with a Boolean operation, selp, slct.
#include <cmath>

#include "ptx/handlers.h"

namespace hadal {
namespace ptx {
namespace {

enum class Comparison { eq, ne, lt, le, gt, ge, equ, neu, ltu, leu, gtu, geu, num, nan };
struct ComparisonRow {
  std::string_view name;
  Comparison comparison;
};
constexpr ComparisonRow rows[] = {
    {"eq", Comparison::eq},   {"ne", Comparison::ne},   {"lt", Comparison::lt},   {"le", Comparison::le},
    {"gt", Comparison::gt},   {"ge", Comparison::ge},   {"lo", Comparison::lt},   {"ls", Comparison::le},
    {"hi", Comparison::gt},   {"hs", Comparison::ge},   {"equ", Comparison::equ}, {"neu", Comparison::neu},
    {"ltu", Comparison::ltu}, {"leu", Comparison::leu}, {"gtu", Comparison::gtu}, {"geu", Comparison::geu},
    {"num", Comparison::num}, {"nan", Comparison::nan},
};

template <Comparison comparison, class T>
bool holds(T a, T b) {
  switch (comparison) {
    case Comparison::eq:
      return a == b;
    case Comparison::ne:
      return a < b || a > b;  // false where one is NaN
    case Comparison::lt:
      return a < b;
    case Comparison::le:
      return a <= b;
    case Comparison::gt:
      return a > b;
    case Comparison::ge:
      return a >= b;
    case Comparison::equ:
      return !(a < b || a > b);
    case Comparison::neu:
      return a != b;
    case Comparison::ltu:
      return !(a >= b);
    case Comparison::leu:
      return !(a > b);
    case Comparison::gtu:
      return !(a <= b);
    case Comparison::geu:
      return !(a < b);
    case Comparison::num:
      return a == a && b == b;
    case Comparison::nan:
      return a != a || b != b;
  }
}

template <class T>
T flushed(T x) {
  if constexpr (std::is_same_v<T, float>) return std::fabs(x) < 0x1p-126f ? 0.0f : x;
  return x;
}

// offset: 0 alone, 1 and, 2 or, 3 xor with predicate c; +4 where c is negated.
template <Comparison comparison, class T, bool isFlushed>
void compare(Warp& warp, const Instruction& i, uint32_t mask) {
  const T *const a = warp.at<T>(i.a), *const b = warp.at<T>(i.b);
  uint32_t is = 0;
  for (uint32_t l = 0; l < lanes; l++) {
    const bool one = isFlushed ? holds<comparison>(flushed(a[l]), flushed(b[l])) : holds<comparison>(a[l], b[l]);
    is |= static_cast<uint32_t>(one) << l;
  }
  uint32_t isNot = ~is;
  if (i.offset) {
    const uint32_t c = i.offset & 4 ? ~warp.predicate(i.c) : warp.predicate(i.c);
    const auto combine = [&](uint32_t x) { return (i.offset & 3) == 1 ? x & c : (i.offset & 3) == 2 ? x | c : x ^ c; };
    is = combine(is), isNot = combine(isNot);
  }
  warp.setPredicate(i.d, mask, is);
  if (i.d2 != noPlace) warp.setPredicate(i.d2, mask, isNot);
}

template <class T, bool isFlushed = false>
Handler handlerOf(Comparison comparison) {
  using C = Comparison;
  switch (comparison) {
    case C::eq:
      return compare<C::eq, T, isFlushed>;
    case C::ne:
      return compare<C::ne, T, isFlushed>;
    case C::lt:
      return compare<C::lt, T, isFlushed>;
    case C::le:
      return compare<C::le, T, isFlushed>;
    case C::gt:
      return compare<C::gt, T, isFlushed>;
    case C::ge:
      return compare<C::ge, T, isFlushed>;
    default:
      break;
  }
  if constexpr (std::is_floating_point_v<T>) switch (comparison) {
      case C::equ:
        return compare<C::equ, T, isFlushed>;
      case C::neu:
        return compare<C::neu, T, isFlushed>;
      case C::ltu:
        return compare<C::ltu, T, isFlushed>;
      case C::leu:
        return compare<C::leu, T, isFlushed>;
      case C::gtu:
        return compare<C::gtu, T, isFlushed>;
      case C::geu:
        return compare<C::geu, T, isFlushed>;
      case C::num:
        return compare<C::num, T, isFlushed>;
      case C::nan:
        return compare<C::nan, T, isFlushed>;
      default:
        break;
    }
  return nullptr;
}

bool decodeSetPredicate(Statement& s) {
  const Type type = s.takeType();
  Instruction& i = s.i;
  const bool isFlushed = s.take("ftz");
  const Comparison* comparison = nullptr;
  std::string_view name;
  for (const ComparisonRow& row : rows)
    if (!comparison && s.take(row.name)) comparison = &row.comparison, name = row.name;
  if (!comparison) s.unsupported("unknown comparison");
  for (const auto& [operation, number] : {std::pair{"and", 1}, {"or", 2}, {"xor", 3}})
    if (i.offset == 0 && s.take(operation)) i.offset = number;
  s.expectOperands(i.offset ? 4 : 3, i.offset ? 4 : 3);
  const Operand& result = s.operand(0);
  i.d = s.destination(0, Type::pred);
  if (!result.pair.empty() && result.pair != "_") {
    const auto second = s.registerOf(result.pair);
    if (!second || second->type != Type::pred) s.unsupported("not a predicate");
    i.d2 = second->place;
  }
  i.a = s.source(1, type), i.b = s.source(2, type);
  if (i.offset) {
    bool isNegated = false;
    i.c = s.predicateSource(s.operand(3), isNegated);
    if (isNegated) i.offset += 4;
  }
  // lo, ls, hi, hs are of unsigned numbers, whatever the type says; eq and ne of any bits.
  const bool isUnsigned = name == "lo" || name == "ls" || name == "hi" || name == "hs";
  if (type == Type::f32)
    i.run = isFlushed ? handlerOf<float, true>(*comparison) : handlerOf<float>(*comparison);
  else if (type == Type::f64)
    i.run = handlerOf<double>(*comparison);
  else if (isSigned(type) && !isUnsigned)
    i.run = ofInteger(type, [&](auto t) { return handlerOf<decltype(t)>(*comparison); });
  else if (!isReal(type) && type != Type::pred)
    i.run = ofBits(type, [&](auto t) { return handlerOf<decltype(t)>(*comparison); });
  return true;
}

template <class T>
void selectByPredicate(Warp& warp, const Instruction& i, uint32_t mask) {
  T* const d = warp.at<T>(i.d);
  const T *const a = warp.at<T>(i.a), *const b = warp.at<T>(i.b);
  const uint32_t p = warp.predicate(i.c);
  eachLane(mask, [&](int l) { d[l] = p >> l & 1 ? a[l] : b[l]; });
}
template <class T, class C>
void selectBySign(Warp& warp, const Instruction& i, uint32_t mask) {
  T* const d = warp.at<T>(i.d);
  const T *const a = warp.at<T>(i.a), *const b = warp.at<T>(i.b);
  const C* const c = warp.at<C>(i.c);
  eachLane(mask, [&](int l) { d[l] = c[l] >= 0 ? a[l] : b[l]; });
}

}  // namespace

bool decodeCompare(Statement& s) {
  Instruction& i = s.i;
  if (s.isFirst("setp")) {
    decodeSetPredicate(s);
  } else if (s.isFirst("selp")) {
    const Type type = s.takeType();
    s.expectOperands(4, 4);
    bool isNegated = false;
    i.d = s.destination(0, type), i.a = s.source(1, type), i.b = s.source(2, type);
    i.c = s.predicateSource(s.operand(3), isNegated);
    if (isNegated) std::swap(i.a, i.b);
    i.run = ofBits(type, [](auto t) -> Handler { return selectByPredicate<decltype(t)>; });
  } else if (s.isFirst("slct")) {
    const Type by = s.takeType(), type = s.takeType();
    if (by != Type::s32 && by != Type::f32) s.unsupported("unknown form of the instruction");
    operands(s, 4, type, type, type, by);
    i.run = ofBits(type, [&](auto t) -> Handler {
      return by == Type::s32 ? Handler(selectBySign<decltype(t), int32_t>) : selectBySign<decltype(t), float>;
    });
  } else {
    return false;
  }
  if (!i.run) s.unsupported("unknown form of the instruction");
  return true;
}

}  // namespace ptx
}  // namespace hadal
