// What threads do together, and copies that go on while a thread works. The last thread to come does the work of all,
// on operands that lie on the stacks of the threads.
#include <bit>
#include <cstring>

#include "sim/convert.h"
#include "sim/worker.h"

namespace hadal {
namespace sim {

int barrier(Vote vote, bool value, Site where) { return worker->barrier(vote, value, where); }

void syncWarp(uint32_t mask, Site where) {
  worker->meet(Operation::syncWarp, 0, mask, nullptr, where, [](int, uint32_t) {});
}

namespace {

template <class T>
T& operandsOf(int thread) {
  return *static_cast<T*>(worker->thread(thread).operands);
}

template <class F>
void forLanes(uint32_t mask, F&& f) {
  for (; mask; mask &= mask - 1) f(std::countr_zero(mask));
}

struct Shuffled {
  uint64_t value, result;
  int source;
};

constexpr Operation operationOf(Shuffle kind) {
  return kind == Shuffle::index  ? Operation::shuffle
         : kind == Shuffle::up   ? Operation::shuffleUp
         : kind == Shuffle::down ? Operation::shuffleDown
                                 : Operation::shuffleXor;
}

}  // namespace

uint64_t shuffle(Shuffle kind, uint32_t mask, uint64_t value, int argument, int width, Site where) {
  if (width < 1 || width > warpLanes || (width & (width - 1)))
    fault(where, "a shuffle's width must be a power of two up to 32, got %d", width);
  // Lanes beyond the segment of `width` lanes keep their own value.
  const int lane = worker->lane(), first = lane & ~(width - 1);
  int source = lane;
  if (kind == Shuffle::index) {
    source = first + (argument & (width - 1));
  } else if (kind == Shuffle::up) {
    if (lane - argument >= first) source = lane - argument;
  } else if (kind == Shuffle::down) {
    if (lane + argument < first + width) source = lane + argument;
  } else if ((lane ^ argument) < first + width) {  // lower segments can be read, higher ones cannot
    source = lane ^ argument;
  }
  if (source < 0 || source >= warpLanes || !(mask >> source & 1))
    fault(where, "a shuffle reads lane %d, which its mask 0x%08x does not name", source, mask);
  Shuffled mine{value, 0, source};
  worker->meet(operationOf(kind), width, mask, &mine, where, [](int first, uint32_t lanes) {
    forLanes(lanes, [&](int l) {
      auto& to = operandsOf<Shuffled>(first + l);
      to.result = operandsOf<Shuffled>(first + to.source).value;
    });
  });
  return mine.result;
}

uint32_t ballot(uint32_t mask, bool value, Site where) {
  struct Ballot {
    bool value;
    uint32_t result;
  } mine{value, 0};
  worker->meet(Operation::ballot, 0, mask, &mine, where, [](int first, uint32_t lanes) {
    uint32_t votes = 0;
    forLanes(lanes, [&](int l) { votes |= static_cast<uint32_t>(operandsOf<Ballot>(first + l).value) << l; });
    forLanes(lanes, [&](int l) { operandsOf<Ballot>(first + l).result = votes; });
  });
  return mine.result;
}

uint32_t matchAny(uint32_t mask, uint64_t value, Site where) {
  struct Match {
    uint64_t value;
    uint32_t result;
  } mine{value, 0};
  worker->meet(Operation::matchAny, 0, mask, &mine, where, [](int first, uint32_t lanes) {
    forLanes(lanes, [&](int l) {
      auto& to = operandsOf<Match>(first + l);
      forLanes(lanes, [&](int other) {
        to.result |= static_cast<uint32_t>(operandsOf<Match>(first + other).value == to.value) << other;
      });
    });
  });
  return mine.result;
}

uint32_t reduce(Reduction kind, uint32_t mask, uint32_t value, Site where) {
  struct Reduced {
    uint32_t value, result;
    Reduction kind;
  } mine{value, 0, kind};
  const auto combine = [](Reduction how, uint32_t a, uint32_t b) {
    const auto x = static_cast<int32_t>(a), y = static_cast<int32_t>(b);
    switch (how) {
      case Reduction::addInt:
        return a + b;
      case Reduction::minInt:
        return x < y ? a : b;
      case Reduction::maxInt:
        return x > y ? a : b;
      case Reduction::minUint:
        return a < b ? a : b;
      case Reduction::maxUint:
        return a > b ? a : b;
      case Reduction::bitAnd:
        return a & b;
      case Reduction::bitOr:
        return a | b;
      case Reduction::bitXor:
        return a ^ b;
    }
    return a;
  };
  worker->meet(Operation::reduce, static_cast<int>(kind), mask, &mine, where, [&](int first, uint32_t lanes) {
    const int begin = std::countr_zero(lanes);
    uint32_t total = operandsOf<Reduced>(first + begin).value;
    forLanes(lanes & (lanes - 1), [&](int l) {
      const auto& from = operandsOf<Reduced>(first + l);
      total = combine(from.kind, total, from.value);
    });
    forLanes(lanes, [&](int l) { operandsOf<Reduced>(first + l).result = total; });
  });
  return mine.result;
}

// ---- Matrices

void loadMatrices(uint32_t* registers, const void* row, int count, bool isTransposed, Site where) {
  const auto* bytes = static_cast<const unsigned char*>(row);
  const auto offset = static_cast<size_t>(bytes - state.shared);
  if (bytes < state.shared || offset + 16 > state.sharedBytes)
    fault(where, "ldmatrix of a row that is not in shared memory (offset %td of %zu bytes)", bytes - state.shared,
          state.sharedBytes);
  if (reinterpret_cast<uintptr_t>(row) % 16) fault(where, "ldmatrix of a row that is not aligned to 16 bytes");
  struct Loaded {
    uint32_t* registers;
    const unsigned char* row;
    const unsigned char* reads[4];
  } mine{registers, bytes, {}};
  worker->meet(Operation::loadMatrices, count * 2 + isTransposed, 0xffffffffu, &mine, where, [&](int first, uint32_t) {
    for (int m = 0; m < count; m++) {
      uint16_t rows[8][8];
      for (int r = 0; r < 8; r++) std::memcpy(rows[r], operandsOf<Loaded>(first + 8 * m + r).row, 16);
      for (int l = 0; l < warpLanes; l++) {
        const int g = l / 4, t = l % 4;
        const uint32_t low = isTransposed ? rows[2 * t][g] : rows[g][2 * t];
        const uint32_t high = isTransposed ? rows[2 * t + 1][g] : rows[g][2 * t + 1];
        auto& to = operandsOf<Loaded>(first + l);
        to.registers[m] = low | high << 16;
        to.reads[m] =
            operandsOf<Loaded>(first + 8 * m + (isTransposed ? 2 * t : g)).row + (isTransposed ? 2 * g : 4 * t);
      }
      if (!worker->counts) continue;
      // Rows that fall into the same 16 of the 128 bytes of all banks are read one after the other.
      int wavefronts = 0;
      for (int r = 0; r < 8; r++) {
        int same = 0;
        const auto place = reinterpret_cast<uintptr_t>(operandsOf<Loaded>(first + 8 * m + r).row) / 16;
        for (int other = 0; other <= r; other++) {
          const auto there = reinterpret_cast<uintptr_t>(operandsOf<Loaded>(first + 8 * m + other).row) / 16;
          if (other < r && there == place) {
            same = 0;
            break;
          }
          same += there % 8 == place % 8;
        }
        wavefronts = same > wavefronts ? same : wavefronts;
      }
      worker->loads.matrices++;
      worker->loads.wavefronts += wavefronts;
      worker->loads.worst = wavefronts > worker->loads.worst ? wavefronts : worker->loads.worst;
    }
    worker->loads.count++;
  });
  for (int m = 0; m < count; m++) readsMemory(mine.reads[m], isTransposed ? 2 : 4);
}

namespace {

struct Multiplied {
  float* d;
  const uint32_t* a;
  const uint32_t* b;
};

// Products are exact in fp32 (save bf16's extremes) and are added in the order of k. Hardware's order is its own.
template <bool isBf16>
void multiplyWarp(int first) {
  const auto toFloat = [](uint32_t bits) {
    return isBf16 ? floatOfBf16(static_cast<uint16_t>(bits)) : floatOfF16(static_cast<uint16_t>(bits));
  };
  float a[16][16], b[16][8], d[16][8];
  for (int l = 0; l < warpLanes; l++) {
    const auto& from = operandsOf<Multiplied>(first + l);
    const int g = l / 4, t = l % 4;
    for (int i = 0; i < 4; i++) {
      a[g + i % 2 * 8][2 * t + i / 2 * 8] = toFloat(from.a[i] & 0xffff);
      a[g + i % 2 * 8][2 * t + i / 2 * 8 + 1] = toFloat(from.a[i] >> 16);
      d[g + i / 2 * 8][2 * t + i % 2] = from.d[i];
    }
    for (int i = 0; i < 2; i++) {
      b[2 * t + i * 8][g] = toFloat(from.b[i] & 0xffff);
      b[2 * t + i * 8 + 1][g] = toFloat(from.b[i] >> 16);
    }
  }
  for (int row = 0; row < 16; row++)
    for (int k = 0; k < 16; k++)
      for (int column = 0; column < 8; column++) d[row][column] += a[row][k] * b[k][column];
  for (int l = 0; l < warpLanes; l++) {
    const int g = l / 4, t = l % 4;
    for (int i = 0; i < 4; i++) operandsOf<Multiplied>(first + l).d[i] = d[g + i / 2 * 8][2 * t + i % 2];
  }
}

}  // namespace

void multiplyAdd(float* d, const uint32_t* a, const uint32_t* b, bool isBf16, Site where) {
  Multiplied mine{d, a, b};
  worker->meet(Operation::multiplyAdd, isBf16, 0xffffffffu, &mine, where, [&](int first, uint32_t) {
    if (isBf16)
      multiplyWarp<true>(first);
    else
      multiplyWarp<false>(first);
  });
}

// ---- Copies: the destination is NaN until the thread has waited for the copy's group.

namespace {

// 4 or 16 bytes, without a call of the C library, which ThreadSanitizer would see.
void fill(unsigned char* to, int value, int bytes) {
  if (bytes == 16)
    std::memset(to, value, 16);
  else
    std::memset(to, value, 4);
}

}  // namespace

void copyAsync(void* shared, const void* global, int bytes, bool isWanted, Site where) {
  auto* to = static_cast<unsigned char*>(shared);
  if (to < state.shared || static_cast<size_t>(to - state.shared) + bytes > state.sharedBytes)
    fault(where, "cp.async to what is not shared memory (offset %td of %zu bytes)", to - state.shared,
          state.sharedBytes);
  if (reinterpret_cast<uintptr_t>(shared) % bytes || reinterpret_cast<uintptr_t>(global) % bytes)
    fault(where, "cp.async of %d bytes from %p to shared offset %td: not aligned", bytes, global, to - state.shared);
  Thread& t = worker->self();
  writesMemory(to, bytes);
  fill(to, 0xff, bytes);
  worker->aside([&] { t.copies.push_back({to, static_cast<const unsigned char*>(global), bytes, isWanted, t.group}); });
}

void commitCopies() { worker->self().group++; }

void awaitCopies(int pending) {
  Thread& t = worker->self();
  const int done = t.group - pending;  // groups below are complete
  size_t kept = 0;
  for (const Copy& copy : t.copies) {
    if (copy.group >= done) {
      t.copies[kept++] = copy;
    } else {
      writesMemory(copy.shared, copy.bytes);
      if (copy.isWanted) {
        readsMemory(copy.global, copy.bytes);
        if (copy.bytes == 16)
          std::memcpy(copy.shared, copy.global, 16);
        else
          std::memcpy(copy.shared, copy.global, 4);
      } else {
        fill(copy.shared, 0, copy.bytes);
      }
    }
  }
  worker->aside([&] { t.copies.resize(kept); });
}

// A fence orders with the help of atomics: what a thread did before a fence and an atomic, before what another does after
// an atomic there and a fence. ThreadSanitizer knows no fences, so they are told it as the atomics' own order.
void fence() {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if (!hasThreadSanitizer()) return;
  Thread& t = worker->self();
  for (void* address : t.fencedBy) __tsan_acquire(address);
  worker->aside([&] { t.fencedBy.clear(); });
  t.hasFenced = true;
}

void beforeAtomic(void* address) {
  if (worker->self().hasFenced) __tsan_release(address);
}
void afterAtomic(void* address) {
  worker->aside([&] { worker->self().fencedBy.push_back(address); });
}

void fault(Site where, const char* text, ...) {
  worker->goAside();
  va_list list;
  va_start(list, text);
  std::string what = formatList(text, list);
  va_end(list);
  worker->fail(worker->describe(where) + ": " + what);
}

}  // namespace sim
}  // namespace hadal
