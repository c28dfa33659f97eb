// Arithmetic of fp32 and fp64 (PTX ISA 9.7.3). NaN results are the canonical NaN, as on a GPU. What the ISA calls
// approximate is computed in double precision and rounded: an error no larger than any GPU's.
#include <cfenv>
#include <cmath>

#include "ptx/handlers.h"

namespace hadal {
namespace ptx {
namespace {

template <class T>
T bitsAs(std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t> bits) {
  T x;
  memcpy(&x, &bits, sizeof(T));
  return x;
}
uint32_t bitsOf(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}
uint64_t bitsOf(double x) {
  uint64_t bits;
  memcpy(&bits, &x, 8);
  return bits;
}

float canonical(float x) { return x != x ? bitsAs<float>(0x7fffffff) : x; }
double canonical(double x) { return x != x ? bitsAs<double>(0xfff8000000000000ull) : x; }
// Subnormal numbers become zero of their sign.
template <bool isFlushed, class T>
T flushed(T x) {
  if constexpr (isFlushed && sizeof(T) == 4) return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x;
  return x;
}
template <bool isSaturated, class T>
T saturated(T x) {
  if constexpr (isSaturated) return x >= 1 ? T{1} : x > 0 ? x : T{0};  // NaN becomes 0
  return x;
}

struct Add {
  template <class T>
  static T of(T a, T b) {
    return a + b;
  }
};
struct Subtract {
  template <class T>
  static T of(T a, T b) {
    return a - b;
  }
};
struct Multiply {
  template <class T>
  static T of(T a, T b) {
    return a * b;
  }
};
struct Divide {
  template <class T>
  static T of(T a, T b) {
    return a / b;
  }
};
struct Fused {
  template <class T>
  static T of(T a, T b, T c) {
    return std::fma(a, b, c);
  }
};
struct Reciprocal {
  template <class T>
  static T of(T a) {
    return T{1} / a;
  }
};
struct Root {
  template <class T>
  static T of(T a) {
    return std::sqrt(a);
  }
};

// Approximations, from double precision.
struct RootReciprocal {
  static float of(float a) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(a))); }
};
struct Exponential {
  static float of(float a) { return static_cast<float>(std::exp2(static_cast<double>(a))); }
};
struct Logarithm {
  static float of(float a) { return static_cast<float>(std::log2(static_cast<double>(a))); }
};
struct Sine {
  static float of(float a) { return static_cast<float>(std::sin(static_cast<double>(a))); }
};
struct Cosine {
  static float of(float a) { return static_cast<float>(std::cos(static_cast<double>(a))); }
};
struct Tangent {
  static float of(float a) { return static_cast<float>(std::tanh(static_cast<double>(a))); }
};
// Of the upper half of a double's bits only, and with zeros in the lower half of the result.
struct UpperHalf {
  static double cut(double x) { return bitsAs<double>(bitsOf(x) & 0xffffffff00000000ull); }
  static double flush(double x) { return std::fabs(x) < 0x1p-1022 ? std::copysign(0.0, x) : x; }
};
struct GrossReciprocal : UpperHalf {
  static double of(double a) { return flush(cut(1.0 / flush(cut(a)))); }
};
struct GrossRootReciprocal : UpperHalf {
  static double of(double a) { return cut(1.0 / std::sqrt(flush(cut(a)))); }
};

struct CopySign {
  template <class T>
  static T of(T a, T b) {
    return std::copysign(b, a);
  }
};
struct Negate {
  template <class T>
  static T of(T a) {
    return -a;
  }
};
struct Absolute {
  template <class T>
  static T of(T a) {
    return std::fabs(a);
  }
};
// A number wins over NaN; -0 is less than +0.
struct Minimum {
  template <class T>
  static T of(T a, T b) {
    if (a != a) return b;
    if (b != b) return a;
    if (a == b) return std::signbit(a) ? a : b;
    return a < b ? a : b;
  }
};
struct Maximum {
  template <class T>
  static T of(T a, T b) {
    if (a != a) return b;
    if (b != b) return a;
    if (a == b) return std::signbit(a) ? b : a;
    return a > b ? a : b;
  }
};
template <class F>
struct OrNaN {
  template <class T>
  static T of(T a, T b) {
    return a != a || b != b ? bitsAs<T>(static_cast<decltype(bitsOf(a))>(-1) >> 1) : F::of(a, b);
  }
};

// How a result is treated: rounded to nearest by these handlers; others set the host's rounding mode around them.
template <class T, class F, bool isFlushed, bool isSaturated>
struct Treated {
  static T of(T a) { return finish(F::of(flushed<isFlushed>(a))); }
  static T of(T a, T b) { return finish(F::of(flushed<isFlushed>(a), flushed<isFlushed>(b))); }
  static T of(T a, T b, T c) {
    return finish(F::of(flushed<isFlushed>(a), flushed<isFlushed>(b), flushed<isFlushed>(c)));
  }
  static T finish(T x) { return saturated<isSaturated>(canonical(flushed<isFlushed>(x))); }
};

template <Handler inner, int mode>
void rounded(Warp& warp, const Instruction& i, uint32_t mask) {
  fesetround(mode);
  inner(warp, i, mask);
  fesetround(FE_TONEAREST);
}

template <class T, class F, int count, bool isFlushed, bool isSaturated>
Handler withRounding(int mode) {
  using G = Treated<T, F, isFlushed, isSaturated>;
  constexpr Handler nearest = [] {
    if constexpr (count == 1)
      return Handler(unary<T, T, G>);
    else if constexpr (count == 2)
      return Handler(binary<T, T, T, G>);
    else
      return Handler(ternary<T, T, T, T, G>);
  }();
  switch (mode) {
    case FE_TOWARDZERO:
      return rounded<nearest, FE_TOWARDZERO>;
    case FE_DOWNWARD:
      return rounded<nearest, FE_DOWNWARD>;
    case FE_UPWARD:
      return rounded<nearest, FE_UPWARD>;
    default:
      return nearest;
  }
}

struct Modifiers {
  int rounding = FE_TONEAREST;
  bool isFlushed = false, isSaturated = false, isApproximate = false, isFull = false;
};
Modifiers takeModifiers(Statement& s) {
  Modifiers m;
  if (s.take("rn")) m.rounding = FE_TONEAREST;
  if (s.take("rz")) m.rounding = FE_TOWARDZERO;
  if (s.take("rm")) m.rounding = FE_DOWNWARD;
  if (s.take("rp")) m.rounding = FE_UPWARD;
  m.isFlushed = s.take("ftz");
  m.isSaturated = s.take("sat");
  m.isApproximate = s.take("approx");
  m.isFull = s.take("full");
  return m;
}

template <class T, class F, int count>
Handler select(const Modifiers& m) {
  if (m.isFlushed)
    return m.isSaturated ? withRounding<T, F, count, true, true>(m.rounding)
                         : withRounding<T, F, count, true, false>(m.rounding);
  return m.isSaturated ? withRounding<T, F, count, false, true>(m.rounding)
                       : withRounding<T, F, count, false, false>(m.rounding);
}
template <class F, int count>
Handler selectOf(Type type, const Modifiers& m) {
  return type == Type::f32 ? select<float, F, count>(m) : select<double, F, count>(m);
}
// Without rounding, saturation, canonical NaN.
template <class F, int count>
Handler plainOf(Type type) {
  if constexpr (count == 1)
    return type == Type::f32 ? Handler(unary<float, float, F>) : unary<double, double, F>;
  else
    return type == Type::f32 ? Handler(binary<float, float, float, F>) : binary<double, double, double, F>;
}

template <class T>
void test(Warp& warp, const Instruction& i, uint32_t mask) {
  const T* const a = warp.at<T>(i.a);
  uint32_t bits = 0;
  for (int l = 0; l < lanes; l++) {
    const int kind = std::fpclassify(a[l]);
    const bool isFinite = kind != FP_NAN && kind != FP_INFINITE;
    bool is = false;
    switch (i.offset) {
      case 0:
        is = isFinite;
        break;
      case 1:
        is = kind == FP_INFINITE;
        break;
      case 2:
        is = kind != FP_NAN;
        break;
      case 3:
        is = kind == FP_NAN;
        break;
      case 4:
        is = kind == FP_NORMAL;
        break;
      default:
        is = kind == FP_SUBNORMAL;
    }
    bits |= static_cast<uint32_t>(is) << l;
  }
  warp.setPredicate(i.d, mask, bits);
}

bool decodeTest(Statement& s, Type type) {
  const char* const names[] = {"finite", "infinite", "number", "notanumber", "normal", "subnormal"};
  s.expectOperands(2, 2);
  s.i.d = s.destination(0, Type::pred);
  s.i.a = s.source(1, type);
  for (int n = 0; n < 6; n++)
    if (s.take(names[n])) s.i.offset = n, s.i.run = type == Type::f32 ? test<float> : test<double>;
  if (!s.i.run) s.unsupported("unknown form of the instruction");
  return true;
}

}  // namespace

bool decodeReal(Statement& s) {
  const Type type = s.parts.empty() ? Type::none : typeNamed(s.parts.back());
  if (type != Type::f32 && type != Type::f64) return false;
  const auto isOneOf = [&](std::initializer_list<std::string_view> names) {
    for (const std::string_view name : names)
      if (s.isFirst(name)) return true;
    return false;
  };
  const bool isUnary = isOneOf({"abs", "neg", "rcp", "sqrt", "rsqrt", "ex2", "lg2", "sin", "cos", "tanh"});
  const bool isBinary = isOneOf({"add", "sub", "mul", "div", "min", "max", "copysign"});
  const bool isTernary = isOneOf({"fma", "mad"});
  if (!isUnary && !isBinary && !isTernary && !s.isFirst("testp")) return false;
  s.takeType();
  if (s.isFirst("testp")) return decodeTest(s, type);
  operands(s, isUnary ? 2 : isBinary ? 3 : 4, type, type, type, type);
  const bool propagates = s.take("NaN");
  const Modifiers m = takeModifiers(s);
  const bool isSingle = type == Type::f32;
  Handler run = nullptr;
  if (s.isFirst("add")) run = selectOf<Add, 2>(type, m);
  if (s.isFirst("sub")) run = selectOf<Subtract, 2>(type, m);
  if (s.isFirst("mul")) run = selectOf<Multiply, 2>(type, m);
  if (isTernary) run = selectOf<Fused, 3>(type, m);
  if (s.isFirst("div")) run = selectOf<Divide, 2>(type, m);
  if (s.isFirst("sqrt")) run = selectOf<Root, 1>(type, m);
  if (s.isFirst("rcp"))
    run = !isSingle && m.isApproximate ? Handler(unary<double, double, GrossReciprocal>)
                                       : selectOf<Reciprocal, 1>(type, m);
  if (s.isFirst("rsqrt")) {
    if (isSingle)
      run = select<float, RootReciprocal, 1>(m);
    else
      run = unary<double, double, GrossRootReciprocal>;
  }
  if (isSingle && s.isFirst("ex2")) run = select<float, Exponential, 1>(m);
  if (isSingle && s.isFirst("lg2")) run = select<float, Logarithm, 1>(m);
  if (isSingle && s.isFirst("sin")) run = select<float, Sine, 1>(m);
  if (isSingle && s.isFirst("cos")) run = select<float, Cosine, 1>(m);
  if (isSingle && s.isFirst("tanh")) run = select<float, Tangent, 1>(m);
  if (s.isFirst("min")) run = propagates ? selectOf<OrNaN<Minimum>, 2>(type, m) : selectOf<Minimum, 2>(type, m);
  if (s.isFirst("max")) run = propagates ? selectOf<OrNaN<Maximum>, 2>(type, m) : selectOf<Maximum, 2>(type, m);
  // Bits: NaN keeps its payload.
  if (s.isFirst("neg")) run = m.isFlushed ? selectOf<Negate, 1>(type, m) : plainOf<Negate, 1>(type);
  if (s.isFirst("abs")) run = m.isFlushed ? selectOf<Absolute, 1>(type, m) : plainOf<Absolute, 1>(type);
  if (s.isFirst("copysign")) run = plainOf<CopySign, 2>(type);
  if (!run) s.unsupported("unknown form of the instruction");
  s.i.run = run;
  return true;
}

}  // namespace ptx
}  // namespace hadal
