// mov with its packing and unpacking, addresses of symbols, and conversions between generic addresses and those of a
// state space (PTX ISA 9.7.9).
#include "ptx/handlers.h"

namespace hadal {
namespace ptx {
namespace {

struct Same {
  template <class T>
  static T of(T a) {
    return a;
  }
};

void movePredicate(Warp& warp, const Instruction& i, uint32_t mask) {
  warp.setPredicate(i.d, mask, warp.predicate(i.a));
}

// {low, …, high} of T from or to one register of W.
template <class W, class T>
void pack(Warp& warp, const Instruction& i, uint32_t mask) {
  W* const d = warp.at<W>(i.d);
  constexpr int count = sizeof(W) / sizeof(T);
  eachLane(mask, [&](int l) {
    W all = 0;
    for (int n = 0; n < count; n++) all |= static_cast<W>(warp.at<T>(i.list[n])[l]) << (n * sizeof(T) * 8);
    d[l] = all;
  });
}
template <class W, class T>
void unpack(Warp& warp, const Instruction& i, uint32_t mask) {
  const W* const a = warp.at<W>(i.a);
  constexpr int count = sizeof(W) / sizeof(T);
  eachLane(mask, [&](int l) {
    const W all = a[l];
    for (int n = 0; n < count; n++) warp.at<T>(i.list[n])[l] = static_cast<T>(all >> (n * sizeof(T) * 8));
  });
}

void moveVector(Statement& s, Type type, bool isPack) {
  const Operand& vector = s.operand(isPack ? 1 : 0);
  const int bytes = bytesOf(type), count = static_cast<int>(vector.parts.size());
  const Type part = count == 2 && bytes == 8   ? Type::b32
                    : count == 4 && bytes == 8 ? Type::b16
                    : count == 2 && bytes == 4 ? Type::b16
                                               : Type::none;
  if (part == Type::none) s.unsupported("unknown form of the instruction");
  std::vector<uint32_t> places;
  for (const Operand& one : vector.parts) places.push_back(isPack ? s.sourceOf(one, part) : s.destinationOf(one, part));
  s.i.list = s.list(std::move(places));
  if (isPack)
    s.i.d = s.destination(0, type);
  else
    s.i.a = s.source(1, type);
  if (bytes == 4)
    s.i.run = isPack ? Handler(pack<uint32_t, uint16_t>) : unpack<uint32_t, uint16_t>;
  else if (count == 2)
    s.i.run = isPack ? Handler(pack<uint64_t, uint32_t>) : unpack<uint64_t, uint32_t>;
  else
    s.i.run = isPack ? Handler(pack<uint64_t, uint16_t>) : unpack<uint64_t, uint16_t>;
}

void decodeMov(Statement& s) {
  const Type type = s.takeType();
  Instruction& i = s.i;
  s.expectOperands(2, 2);
  if (type == Type::pred) {
    bool isNegated = false;
    i.d = s.destination(0, type);
    i.a = s.predicateSource(s.operand(1), isNegated);
    if (isNegated) s.unsupported("a negated operand");
    i.run = movePredicate;
    return;
  }
  if (s.operand(0).kind == Operand::vector) return moveVector(s, type, false);
  if (s.operand(1).kind == Operand::vector) return moveVector(s, type, true);
  i.d = s.destination(0, type);
  const Operand& from = s.operand(1);
  if (from.kind == Operand::name && !s.registerOf(from.text)) {
    const auto symbol = s.decoder.symbolOf(from.text);
    if (!symbol) s.unsupported("not a register or symbol");
    if (bytesOf(type) < (symbol->space == Space::global ? 8 : 4))
      s.unsupported("an address in a register that is too small");
    i.a = s.decoder.constant(symbol->address + static_cast<uint64_t>(from.offset), bytesOf(type));
  } else {
    i.a = s.source(1, type);
  }
  i.run = ofBits(type, [](auto t) -> Handler { return unary<decltype(t), decltype(t), Same>; });
}

// Windows of the generic address space; global memory is where it is.
Space takeSpace(Statement& s) {
  for (const auto& [name, space] : {std::pair{"global", Space::global},
                                    {"const", Space::global},
                                    {"shared", Space::shared},
                                    {"shared::cta", Space::shared},
                                    {"local", Space::local},
                                    {"param", Space::parameter}})
    if (s.take(name)) return space;
  s.unsupported("expected a state space");
}
uint64_t windowOf(Space space) {
  return space == Space::shared      ? sharedWindow
         : space == Space::local     ? localWindow
         : space == Space::parameter ? parameterWindow
                                     : 0;
}

void toGeneric(Warp& warp, const Instruction& i, uint32_t mask) {
  auto* const d = warp.at<uint64_t>(i.d);
  const auto* const a = warp.at<uint64_t>(i.a);
  const uint64_t window = windowOf(i.space);
  eachLane(mask, [&](int l) { d[l] = a[l] + window; });
}
void fromGeneric(Warp& warp, const Instruction& i, uint32_t mask) {
  auto* const d = warp.at<uint64_t>(i.d);
  const auto* const a = warp.at<uint64_t>(i.a);
  const uint64_t window = windowOf(i.space);
  eachLane(mask, [&](int l) {
    if (window && (a[l] & windowMask) != window)
      failLane(l, "the generic address 0x%llx is not in the state space", static_cast<unsigned long long>(a[l]));
    d[l] = a[l] - window;
  });
}
void isInSpace(Warp& warp, const Instruction& i, uint32_t mask) {
  const auto* const a = warp.at<uint64_t>(i.a);
  const uint64_t window = windowOf(i.space);
  uint32_t is = 0;
  for (int l = 0; l < lanes; l++)
    is |= static_cast<uint32_t>(window ? (a[l] & windowMask) == window : a[l] >> 47 == 0) << l;
  warp.setPredicate(i.d, mask, is);
}

}  // namespace

bool decodeMove(Statement& s) {
  Instruction& i = s.i;
  if (s.isFirst("mov")) {
    decodeMov(s);
  } else if (s.isFirst("cvta")) {
    if (s.takeType() != Type::u64) s.unsupported("addresses of 32 bits");
    const bool isTo = s.take("to");
    i.space = takeSpace(s);
    s.expectOperands(2, 2);
    i.d = s.destination(0, Type::u64);
    const Operand& from = s.operand(1);
    if (from.kind == Operand::name && !s.registerOf(from.text)) {
      const auto symbol = s.decoder.symbolOf(from.text);
      if (!symbol || symbol->space != i.space || isTo) s.unsupported("not a symbol of the state space");
      i.a = s.decoder.constant(symbol->address + static_cast<uint64_t>(from.offset), 8);
    } else {
      i.a = s.source(1, Type::u64);
    }
    i.run = isTo ? fromGeneric : toGeneric;
  } else if (s.isFirst("isspacep")) {
    i.space = takeSpace(s);
    s.expectOperands(2, 2);
    i.d = s.destination(0, Type::pred);
    i.a = s.source(1, Type::u64);
    i.run = isInSpace;
  } else {
    return false;
  }
  if (!i.run) s.unsupported("unknown form of the instruction");
  return true;
}

}  // namespace ptx
}  // namespace hadal
