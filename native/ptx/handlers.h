// Handlers of instructions that take numbers lane by lane, made of a plain function of numbers.
#pragma once
#include "ptx/decode.h"

namespace hadal {
namespace ptx {

template <class D, class A, class F>
void unary(Warp& warp, const Instruction& i, uint32_t mask) {
  D* const d = warp.at<D>(i.d);
  const A* const a = warp.at<A>(i.a);
  eachLane(mask, [&](int l) { d[l] = F::of(a[l]); });
}
template <class D, class A, class B, class F>
void binary(Warp& warp, const Instruction& i, uint32_t mask) {
  D* const d = warp.at<D>(i.d);
  const A* const a = warp.at<A>(i.a);
  const B* const b = warp.at<B>(i.b);
  eachLane(mask, [&](int l) { d[l] = F::of(a[l], b[l]); });
}
template <class D, class A, class B, class C, class F>
void ternary(Warp& warp, const Instruction& i, uint32_t mask) {
  D* const d = warp.at<D>(i.d);
  const A* const a = warp.at<A>(i.a);
  const B* const b = warp.at<B>(i.b);
  const C* const c = warp.at<C>(i.c);
  eachLane(mask, [&](int l) { d[l] = F::of(a[l], b[l], c[l]); });
}

// Sets the operands d, a, b, c of one type.
inline void operands(Statement& s, size_t count, Type d, Type a, Type b = Type::none, Type c = Type::none) {
  s.expectOperands(count, count);
  s.i.d = s.destination(0, d);
  s.i.a = s.source(1, a);
  if (count > 2) s.i.b = s.source(2, b);
  if (count > 3) s.i.c = s.source(3, c);
}

// Calls f with a number of the C++ type of a PTX type; null where f is not for it.
template <class F>
Handler ofInteger(Type type, F f) {
  switch (type) {
    case Type::u16:
      return f(uint16_t{});
    case Type::u32:
      return f(uint32_t{});
    case Type::u64:
      return f(uint64_t{});
    case Type::s16:
      return f(int16_t{});
    case Type::s32:
      return f(int32_t{});
    case Type::s64:
      return f(int64_t{});
    default:
      return nullptr;
  }
}
template <class F>
Handler ofBits(Type type, F f) {
  switch (bytesOf(type)) {
    case 2:
      return f(uint16_t{});
    case 4:
      return f(uint32_t{});
    case 8:
      return f(uint64_t{});
    default:
      return nullptr;
  }
}

}  // namespace ptx
}  // namespace hadal
