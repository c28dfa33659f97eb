// Threads together: barriers, shuffles, votes, matches, reductions over a warp (PTX ISA 9.7.9.6, 9.7.13). The machine
// has gathered the lanes of a membermask before these run, so that `mask` is the lanes that take part.
#include "ptx/handlers.h"

namespace hadal {
namespace ptx {
namespace {

enum class Mode : int64_t { up, down, butterfly, index };

// list: value, lane or offset, clamp and segments.
void shuffle(Warp& warp, const Instruction& i, uint32_t mask) {
  auto* const d = warp.at<uint32_t>(i.d);
  const uint32_t *const a = warp.at<uint32_t>(i.list[0]), *const b = warp.at<uint32_t>(i.list[1]),
                        *const c = warp.at<uint32_t>(i.list[2]);
  uint32_t values[lanes], inRange = 0;
  memcpy(values, a, sizeof(values));
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    const int value = static_cast<int>(b[lane] & 31), clamp = static_cast<int>(c[lane] & 31),
              segment = static_cast<int>(c[lane] >> 8 & 31);
    const int most = (lane & segment) | (clamp & ~segment), least = lane & segment;
    int j = lane;
    bool is = false;
    switch (static_cast<Mode>(i.offset)) {
      case Mode::up:
        j = lane - value, is = j >= most;
        break;
      case Mode::down:
        j = lane + value, is = j <= most;
        break;
      case Mode::butterfly:
        j = lane ^ value, is = j <= most;
        break;
      case Mode::index:
        j = least | (value & ~segment), is = j <= most;
        break;
    }
    if (!is) j = lane;
    if (!(mask >> j & 1)) failLane(lane, "the lane reads lane %d, which does not take part (0x%08x do)", j, mask);
    d[lane] = values[j];
    inRange |= static_cast<uint32_t>(is) << lane;
  }
  if (i.d2 != noPlace) warp.setPredicate(i.d2, mask, inRange);
}

uint32_t votesOf(const Warp& warp, const Instruction& i, uint32_t mask) {
  const uint32_t bits = warp.predicate(i.a);
  return (i.offset ? ~bits : bits) & mask;
}
void ballot(Warp& warp, const Instruction& i, uint32_t mask) {
  auto* const d = warp.at<uint32_t>(i.d);
  const uint32_t votes = votesOf(warp, i, mask);
  eachLane(mask, [&](int l) { d[l] = votes; });
}
void all(Warp& warp, const Instruction& i, uint32_t mask) {
  warp.setPredicate(i.d, mask, votesOf(warp, i, mask) == mask ? allLanes : 0);
}
void any(Warp& warp, const Instruction& i, uint32_t mask) {
  warp.setPredicate(i.d, mask, votesOf(warp, i, mask) != 0 ? allLanes : 0);
}
void uniform(Warp& warp, const Instruction& i, uint32_t mask) {
  const uint32_t votes = votesOf(warp, i, mask);
  warp.setPredicate(i.d, mask, votes == mask || votes == 0 ? allLanes : 0);
}

template <class T>
void matchAny(Warp& warp, const Instruction& i, uint32_t mask) {
  const T* const a = warp.at<T>(i.a);
  uint32_t same[lanes] = {};
  for (int l = 0; l < lanes; l++)
    for (int m = 0; m < lanes; m++)
      if (mask >> m & 1 && a[m] == a[l]) same[l] |= 1u << m;
  eachLane(mask, [&](int l) { warp.at<uint32_t>(i.d)[l] = same[l]; });
}
template <class T>
void matchAll(Warp& warp, const Instruction& i, uint32_t mask) {
  const T* const a = warp.at<T>(i.a);
  const T first = a[__builtin_ctz(mask)];
  bool isSame = true;
  for (int l = 0; l < lanes; l++) isSame &= !(mask >> l & 1) || a[l] == first;
  eachLane(mask, [&](int l) { warp.at<uint32_t>(i.d)[l] = isSame ? mask : 0; });
  if (i.d2 != noPlace) warp.setPredicate(i.d2, mask, isSame ? allLanes : 0);
}

template <class T>
void reduce(Warp& warp, const Instruction& i, uint32_t mask) {
  const T* const a = warp.at<T>(i.a);
  T total = a[__builtin_ctz(mask)];
  for (uint32_t rest = mask & (mask - 1); rest != 0; rest &= rest - 1) {
    const T x = a[__builtin_ctz(rest)];
    switch (i.offset) {
      case 0:
        total = static_cast<T>(static_cast<uint32_t>(total) + static_cast<uint32_t>(x));
        break;
      case 1:
        total = std::min(total, x);
        break;
      case 2:
        total = std::max(total, x);
        break;
      case 3:
        total &= x;
        break;
      case 4:
        total |= x;
        break;
      default:
        total ^= x;
    }
  }
  eachLane(mask, [&](int l) { warp.at<T>(i.d)[l] = total; });
}

void activeMask(Warp& warp, const Instruction& i, uint32_t mask) {
  eachLane(mask, [&](int l) { warp.at<uint32_t>(i.d)[l] = mask; });
}
void nothing(Warp&, const Instruction&, uint32_t) {}
void trap(Warp&, const Instruction&, uint32_t mask) { failLane(__builtin_ctz(mask), "the kernel trapped"); }

void decodeBarrier(Statement& s) {
  Instruction& i = s.i;
  if (s.take("warp")) {
    if (!s.take("sync")) s.unsupported("unknown form of the instruction");
    s.expectOperands(1, 1);
    i.flow = Flow::warpBarrier;
    i.c = s.source(0, Type::b32);
    return;
  }
  s.take("cta"), s.take("aligned");
  if (!s.take("sync")) s.unsupported("unknown form of the instruction");
  s.expectOperands(1, 2);
  i.flow = Flow::barrier;
  i.a = s.source(0, Type::u32);
  if (s.operands.size() == 2) i.b = s.source(1, Type::u32);
}

void decodeShuffle(Statement& s) {
  Instruction& i = s.i;
  if (!s.take("sync") || s.takeType() != Type::b32) s.unsupported("unknown form of the instruction");
  i.offset = -1;
  for (const auto& [name, mode] :
       {std::pair{"up", Mode::up}, {"down", Mode::down}, {"bfly", Mode::butterfly}, {"idx", Mode::index}})
    if (i.offset < 0 && s.take(name)) i.offset = static_cast<int64_t>(mode);
  if (i.offset < 0) s.unsupported("unknown form of the instruction");
  s.expectOperands(5, 5);
  i.d = s.destination(0, Type::b32);
  if (const std::string_view pair = s.operand(0).pair; !pair.empty() && pair != "_") {
    const auto second = s.registerOf(pair);
    if (!second || second->type != Type::pred) s.unsupported("not a predicate");
    i.d2 = second->place;
  }
  i.list = s.list({s.source(1, Type::b32), s.source(2, Type::b32), s.source(3, Type::b32)});
  i.c = s.source(4, Type::b32);
  i.flow = Flow::gather;
  i.run = shuffle;
}

void decodeVote(Statement& s) {
  Instruction& i = s.i;
  if (!s.take("sync")) s.unsupported("unknown form of the instruction");
  const Type type = s.takeType();
  s.expectOperands(3, 3);
  i.run = s.take("ballot") ? ballot
          : s.take("all")  ? all
          : s.take("any")  ? any
          : s.take("uni")  ? uniform
                           : Handler(nullptr);
  if (!i.run || type != (i.run == ballot ? Type::b32 : Type::pred)) s.unsupported("unknown form of the instruction");
  i.d = s.destination(0, type);
  bool isNegated = false;
  i.a = s.predicateSource(s.operand(1), isNegated);
  i.offset = isNegated;
  i.c = s.source(2, Type::b32);
  i.flow = Flow::gather;
}

void decodeMatch(Statement& s) {
  Instruction& i = s.i;
  const Type type = s.takeType();
  const bool isAny = s.take("any");
  if ((!isAny && !s.take("all")) || !s.take("sync") || (type != Type::b32 && type != Type::b64))
    s.unsupported("unknown form of the instruction");
  s.expectOperands(3, 3);
  i.d = s.destination(0, Type::b32);
  if (const std::string_view pair = s.operand(0).pair; !pair.empty() && pair != "_") {
    const auto second = s.registerOf(pair);
    if (isAny || !second || second->type != Type::pred) s.unsupported("not a predicate");
    i.d2 = second->place;
  }
  i.a = s.source(1, type);
  i.c = s.source(2, Type::b32);
  i.flow = Flow::gather;
  if (type == Type::b32)
    i.run = isAny ? matchAny<uint32_t> : matchAll<uint32_t>;
  else
    i.run = isAny ? matchAny<uint64_t> : matchAll<uint64_t>;
}

void decodeReduction(Statement& s) {
  Instruction& i = s.i;
  const Type type = s.takeType();
  i.offset = -1;
  for (const auto& [name, number] : {std::pair{"add", 0}, {"min", 1}, {"max", 2}, {"and", 3}, {"or", 4}, {"xor", 5}})
    if (i.offset < 0 && s.take(name)) i.offset = number;
  if (!s.take("sync") || i.offset < 0 || (type == Type::b32) != (i.offset >= 3) || bytesOf(type) != 4 || isReal(type))
    s.unsupported("unknown form of the instruction");
  s.expectOperands(3, 3);
  i.d = s.destination(0, type), i.a = s.source(1, type), i.c = s.source(2, Type::b32);
  i.flow = Flow::gather;
  i.run = type == Type::s32 ? Handler(reduce<int32_t>) : reduce<uint32_t>;
}

}  // namespace

bool decodeCooperation(Statement& s) {
  Instruction& i = s.i;
  if (s.isFirst("bar") || s.isFirst("barrier")) {
    decodeBarrier(s);
  } else if (s.isFirst("shfl")) {
    decodeShuffle(s);
  } else if (s.isFirst("vote")) {
    decodeVote(s);
  } else if (s.isFirst("match")) {
    decodeMatch(s);
  } else if (s.isFirst("redux")) {
    decodeReduction(s);
  } else if (s.isFirst("activemask")) {
    if (s.takeType() != Type::b32) s.unsupported("unknown form of the instruction");
    s.expectOperands(1, 1);
    i.d = s.destination(0, Type::b32);
    i.run = activeMask;
  } else if (s.isFirst("nanosleep")) {
    s.takeType();
    i.run = nothing;
  } else if (s.isFirst("trap")) {
    i.run = trap;
  } else {
    return false;
  }
  return true;
}

}  // namespace ptx
}  // namespace hadal
