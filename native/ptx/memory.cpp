// Loads and stores with vectors and cache hints, asynchronous copies, fences (PTX ISA 9.7.9, 9.7.13).
#include "ptx/handlers.h"

namespace hadal {
namespace ptx {
namespace {

inline __attribute__((always_inline)) uint64_t addressOf(const Warp& warp, const Instruction& i, int l) {
  if (i.isWideAddress) return warp.at<uint64_t>(i.a)[l] + static_cast<uint64_t>(i.offset);
  return static_cast<uint32_t>(warp.at<uint32_t>(i.a)[l] + static_cast<uint32_t>(i.offset));
}
inline __attribute__((always_inline)) uint8_t* memoryAt(const Warp& warp, const Instruction& i, uint32_t bytes, int l) {
  const uint64_t address = addressOf(warp, i, l);
  const bool isPlain = i.space == Space::global && address % bytes == 0 && address >= 4096 && address >> 47 == 0;
  return isPlain ? reinterpret_cast<uint8_t*>(address) : warp.resolve(i.space, address, bytes, l);
}

// M as it lies in memory, R as the register holds it.
template <class M, class R>
void load(Warp& warp, const Instruction& i, uint32_t mask) {
  const uint32_t bytes = sizeof(M) * i.count;
  eachLane(mask, [&](int l) {
    const uint8_t* const from = memoryAt(warp, i, bytes, l);
    M values[4];
    memcpy(values, from, sizeof(M) * (i.count == 1 ? 1 : i.count));
    for (int n = 0; n < i.count; n++) warp.at<R>(i.list[n])[l] = static_cast<R>(values[n]);
  });
}
// Some bytes do not matter (`target` has a bit for each that does): nvcc widens loads so, beyond the end of what there
// is.
template <class M, class R>
void loadUsed(Warp& warp, const Instruction& i, uint32_t mask) {
  eachLane(mask, [&](int l) {
    const uint64_t address = addressOf(warp, i, l);
    if (address % (sizeof(M) * i.count) != 0) failLane(l, "misaligned access of %zu bytes", sizeof(M) * i.count);
    for (uint32_t n = 0; n < i.count; n++) {
      const bool isUsed = i.target >> (n * sizeof(M)) & ((1u << sizeof(M)) - 1);
      M value = static_cast<M>(-1);
      if (isUsed) memcpy(&value, warp.resolve(i.space, address + n * sizeof(M), sizeof(M), l), sizeof(M));
      warp.at<R>(i.list[n])[l] = static_cast<R>(value);
    }
  });
}
template <class M, class R>
void store(Warp& warp, const Instruction& i, uint32_t mask) {
  const uint32_t bytes = sizeof(M) * i.count;
  eachLane(mask, [&](int l) {
    uint8_t* const to = memoryAt(warp, i, bytes, l);
    for (int n = 0; n < i.count; n++) {
      const M value = static_cast<M>(warp.at<R>(i.list[n])[l]);
      memcpy(to + n * sizeof(M), &value, sizeof(M));
    }
  });
}

enum class Access { load, loadUsed, store };
template <class M, class R>
Handler accessOf(Access access) {
  return access == Access::load ? load<M, R> : access == Access::loadUsed ? loadUsed<M, R> : store<M, R>;
}
template <class M>
Handler accessOf(Access access, int registerBytes) {
  if (registerBytes == 2) {
    if constexpr (sizeof(M) <= 2) return accessOf<M, uint16_t>(access);
  }
  if (registerBytes == 4) {
    if constexpr (sizeof(M) <= 4) return accessOf<M, uint32_t>(access);
  }
  if (registerBytes == 8) return accessOf<M, uint64_t>(access);
  return nullptr;
}
Handler accessOf(Type type, Access access, int registerBytes) {
  switch (bytesOf(type)) {
    case 1:
      return isSigned(type) ? accessOf<int8_t>(access, registerBytes) : accessOf<uint8_t>(access, registerBytes);
    case 2:
      return isSigned(type) ? accessOf<int16_t>(access, registerBytes) : accessOf<uint16_t>(access, registerBytes);
    case 4:
      return isSigned(type) ? accessOf<int32_t>(access, registerBytes) : accessOf<uint32_t>(access, registerBytes);
    case 8:
      return accessOf<uint64_t>(access, registerBytes);
    default:
      return nullptr;
  }
}

// Order between threads and caching change nothing here, where instructions are run one after the other.
void takeHints(Statement& s) {
  for (const char* const name : {"weak", "volatile", "relaxed", "acquire", "release", "acq_rel", "cta", "gpu", "sys",
                                 "ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc"})
    s.take(name);
  std::erase_if(s.parts, [](std::string_view part) {
    return (part.starts_with("L1::") || part.starts_with("L2::")) && part != "L2::cache_hint";
  });
}
Space takeSpace(Statement& s) {
  for (const auto& [name, space] : {std::pair{"global", Space::global},
                                    {"const", Space::global},
                                    {"shared", Space::shared},
                                    {"shared::cta", Space::shared},
                                    {"local", Space::local},
                                    {"param", Space::parameter},
                                    {"param::entry", Space::parameter},
                                    {"param::func", Space::parameter}})
    if (s.take(name)) return space;
  return Space::generic;
}

void decodeAccess(Statement& s, bool isLoad) {
  Instruction& i = s.i;
  const Type type = s.takeType();
  i.space = takeSpace(s);
  takeHints(s);
  const int count = s.take("v2") ? 2 : s.take("v4") ? 4 : 1;
  s.expectOperands(2, 2);
  const Operand& data = s.operand(isLoad ? 0 : 1);
  if ((data.kind == Operand::vector) != (count > 1)) s.unsupported("a vector of another length");
  const std::vector<Operand> parts = count > 1 ? data.parts : std::vector<Operand>{data};
  if (static_cast<int>(parts.size()) != count) s.unsupported("a vector of another length");
  std::vector<uint32_t> places;
  int registerBytes = 0, firstBytes = 0;
  for (const Operand& part : parts) {
    const bool isSink = part.kind == Operand::sink && firstBytes > 0;
    if (isSink)
      places.push_back(s.decoder.placeFor(registerBytes = firstBytes));
    else
      places.push_back(isLoad ? s.wideDestination(part, type, registerBytes) : s.wideSource(part, type, registerBytes));
    if (firstBytes == 0) firstBytes = registerBytes;
    if (registerBytes != firstBytes) s.unsupported("registers of different sizes");
  }
  i.count = static_cast<uint16_t>(count);
  i.list = s.list(std::move(places));
  s.address(s.operand(isLoad ? 1 : 0));
  i.target = isLoad ? s.decoder.takeUsedBytes() : 0;
  i.run = accessOf(type, i.target ? Access::loadUsed : isLoad ? Access::load : Access::store, registerBytes);
  if (!i.run) s.unsupported("unknown form of the instruction");
}

// ---- Asynchronous copies: what they write is there when they have been waited for, and NaN until then.

// list: place of the source's address, place of the count of bytes to read or of the predicate that ignores the source.
enum : uint16_t { wholeSource, countedSource, ignorableSource };
void copyAsync(Warp& warp, const Instruction& i, uint32_t mask) {
  const auto* const from = warp.at<uint64_t>(i.list[0]);
  const uint32_t bytes = i.count;
  eachLane(mask, [&](int l) {
    const uint64_t to = addressOf(warp, i, l);
    uint8_t* const memory = warp.resolveShared(to, bytes, l);
    uint32_t read = bytes;
    if (i.list[1] == countedSource) read = warp.at<uint32_t>(i.list[2])[l];
    if (i.list[1] == ignorableSource) read = warp.predicate(i.list[2]) >> l & 1 ? 0 : bytes;
    if (read > bytes) failLane(l, "a copy of %u bytes reads %u", bytes, read);
    const uint64_t address = from[l] + static_cast<uint64_t>(static_cast<int64_t>(i.target));
    if (address % bytes != 0)
      failLane(l, "the source of the copy, 0x%llx, is not aligned to %u bytes",
               static_cast<unsigned long long>(address), bytes);
    const uint8_t* const source = read ? warp.resolve(Space::global, address, bytes, l) : nullptr;
    memset(memory, 0xff, bytes);
    warp.copies.push_back({static_cast<uint32_t>(to - sharedStart), source, static_cast<uint8_t>(bytes),
                           static_cast<uint8_t>(read), static_cast<uint8_t>(l), warp.committed[l]});
  });
}
void commitGroup(Warp& warp, const Instruction&, uint32_t mask) {
  eachLane(mask, [&](int l) { warp.committed[l]++; });
}
void waitGroup(Warp& warp, const Instruction& i, uint32_t mask) {
  if (warp.copies.empty()) return;
  const auto pending = static_cast<uint32_t>(i.offset);
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
    const int l = __builtin_ctz(rest);
    if (warp.committed[l] > pending) warp.landCopies(l, warp.committed[l] - pending);
  }
}
void waitAll(Warp& warp, const Instruction&, uint32_t mask) {
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) warp.landCopies(__builtin_ctz(rest), ~0u);
}

void decodeCopy(Statement& s) {
  Instruction& i = s.i;
  if (!s.take("async")) s.unsupported("unknown instruction");
  if (s.take("commit_group")) {
    s.expectOperands(0, 0);
    i.run = commitGroup;
  } else if (s.take("wait_group")) {
    s.expectOperands(1, 1);
    i.offset = s.integer(0);
    i.run = waitGroup;
  } else if (s.take("wait_all")) {
    s.expectOperands(0, 0);
    i.run = waitAll;
  } else {
    const bool isCached = s.take("ca");
    if (!isCached && !s.take("cg")) s.unsupported("unknown form of the instruction");
    if ((!s.take("shared") && !s.take("shared::cta")) || !s.take("global"))
      s.unsupported("unknown form of the instruction");
    std::erase_if(s.parts, [](std::string_view part) { return part.starts_with("L2::") && part != "L2::cache_hint"; });
    s.expectOperands(3, 4);
    const int64_t bytes = s.integer(2);
    if (bytes != 16 && (!isCached || (bytes != 4 && bytes != 8)))
      s.unsupported("a copy of another size than 4, 8 or 16 bytes");
    i.space = Space::global;
    s.address(s.operand(1));
    if (!i.isWideAddress) s.unsupported("a global address of 32 bits");
    const Place source = i.a;
    i.target = static_cast<uint32_t>(i.offset);  // of the source; checked to fit
    if (i.offset != static_cast<int32_t>(i.offset)) s.unsupported("an offset of more than 32 bits");
    i.space = Space::shared, i.offset = 0;
    s.address(s.operand(0));
    std::vector<uint32_t> list{source, wholeSource, 0};
    if (s.operands.size() == 4) {
      const Operand& last = s.operand(3);
      const auto found = last.kind == Operand::name ? s.registerOf(last.text) : std::nullopt;
      const bool isPredicate = found && found->type == Type::pred;
      if (isPredicate && last.isNegated) s.unsupported("a negated operand");
      list[1] = isPredicate ? ignorableSource : countedSource;
      list[2] = isPredicate ? found->place : s.source(3, Type::u32);
    }
    i.list = s.list(std::move(list));
    i.count = static_cast<uint16_t>(bytes);
    i.run = copyAsync;
  }
}

void nothing(Warp&, const Instruction&, uint32_t) {}

}  // namespace

bool decodeMemory(Statement& s) {
  if (s.isFirst("ld") || s.isFirst("ldu") || s.isFirst("st")) {
    decodeAccess(s, !s.isFirst("st"));
  } else if (s.isFirst("cp")) {
    decodeCopy(s);
  } else if (s.isFirst("membar") || s.isFirst("fence")) {
    for (const char* const name : {"cta", "gl", "gpu", "sys", "sc", "acq_rel"}) s.take(name);
    s.expectOperands(0, 0);
    s.i.run = nothing;
  } else if (s.isFirst("prefetch")) {
    takeSpace(s);
    s.take("L1"), s.take("L2");
    s.i.run = nothing;
  } else {
    return false;
  }
  return true;
}

}  // namespace ptx
}  // namespace hadal
