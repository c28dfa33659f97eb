#include "ops/top-k.h"

#include "core/threads.h"
#include "cpu/residual.h"

namespace hadal {
namespace HADAL_ISA {

namespace {

// Numbers worth a thread: some ten microseconds.
constexpr int64_t grain = 16384;
// Digits of a magnitude (31 bits): where they begin, and how many values they have.
constexpr int shifts[] = {20, 9, 0};
constexpr int64_t values[] = {2048, 2048, 512};
constexpr int64_t mostValues = 2048;
// Neighbours have the same first digit more often than not: counted in turns, none waits for the one before. Four are 32 KiB.
constexpr int turns = 4;

// What a thread counts in its share of the numbers.
struct Share {
  uint32_t counts[turns][mostValues];
  int64_t above, equal;
};

HADAL_INLINE int64_t workspaceBytes(const TopKParams&, int threads) {
  return threads * static_cast<int64_t>(sizeof(Share));
}

#if defined(__AVX512F__)
HADAL_INLINE bool any(UVec mask) { return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0; }
#elif defined(__AVX2__)
HADAL_INLINE bool any(UVec mask) { return !_mm256_testz_si256((__m256i)mask, (__m256i)mask); }
#else
HADAL_INLINE bool any(UVec mask) {
  uint32_t found = 0;
  for (int i = 0; i < lanes; i++) found |= mask[i];
  return found != 0;
}
#endif

// Calls body(i, bits) for the numbers of [begin, end) for which isWanted(bits), few of them, a vector of bits giving a mask.
template <class IsWanted, class Body>
HADAL_INLINE void forWanted(const float* x, int64_t begin, int64_t end, IsWanted&& isWanted, Body&& body) {
  forLanes(end - begin, [&](int64_t offset, auto part) {
    const int64_t first = begin + offset;
    const UVec bits = magnitudeBits(load(x + first, part));
    if (!any(reinterpret_cast<UVec>(isWanted(bits)))) return;
    const int64_t n = end - first < lanes ? end - first : lanes;
    for (int64_t i = 0; i < n; i++) {
      const uint32_t one = magnitudeBits(x[first + i]);
      if (isWanted(one)) body(first + i, one);
    }
  });
}

// The digit that the magnitude of rank `left` has; `left` becomes its rank among those with this digit.
HADAL_INLINE int64_t chooseDigit(const Share* shares, int threads, int64_t values, int64_t& left) {
  for (int64_t digit = values - 1;; digit--) {
    int64_t count = 0;
    for (int t = 0; t < threads; t++)
      for (int turn = 0; turn < turns; turn++) count += shares[t].counts[turn][digit];
    if (count >= left || digit == 0) return digit;
    left -= count;
  }
}

HADAL_INLINE void clear(Share* shares, int threads) {
  std::memset(static_cast<void*>(shares), 0, static_cast<size_t>(threads) * sizeof(Share));
}

// x = grad + scale·residual, counted by the first digit on the way; `sums` is where it is kept, or null.
HADAL_INLINE void addAndCount(const WithResidual& x, float* sums, int64_t begin, int64_t end, Share& share) {
  forLanes(end - begin, [&](int64_t offset, auto part) {
    const int64_t first = begin + offset;
    const Vec sum = x(first, part);
    if (sums) store(sums + first, part, sum);
    const UVec digits = magnitudeBits(sum) >> shifts[0];
    const int64_t n = end - first < lanes ? end - first : lanes;
    for (int64_t i = 0; i < n; i++) share.counts[i % turns][digits[i]]++;
  });
}

void select(const TopKParams& p, void* const* buffers, RunContext& context) {
  const WithResidual given(buffers[0], buffers[1], buffers[2]);
  float* next = static_cast<float*>(buffers[4]);
  const float* x = next ? next : static_cast<const float*>(buffers[0]);
  if (buffers[1] && !next) return context.fail("[top-k] expected nextResidual where there is a residual");
  Share* shares = static_cast<Share*>(context.workspace);
  const int threads = context.threads;

  clear(shares, threads);
  parallelFor(p.count, threads, grain,
              [&](int64_t begin, int64_t end, int t) { addAndCount(given, next, begin, end, shares[t]); });
  int64_t left = p.kept;
  uint32_t known = static_cast<uint32_t>(chooseDigit(shares, threads, values[0], left));
  for (int d = 1; d < 3; d++) {
    const int shift = shifts[d], before = shifts[d - 1];
    clear(shares, threads);
    parallelFor(p.count, threads, grain, [&](int64_t begin, int64_t end, int t) {
      forWanted(
          x, begin, end, [&](auto bits) { return (bits >> before) == known; },
          [&](int64_t i, uint32_t bits) {
            shares[t].counts[i % turns][(bits >> shift) & static_cast<uint32_t>(values[d] - 1)]++;
          });
    });
    known = known << (before - shift) | static_cast<uint32_t>(chooseDigit(shares, threads, values[d], left));
  }

  // Of the numbers as great as the k-th, `left` are taken.
  const uint32_t least = known;
  clear(shares, threads);
  parallelFor(p.count, threads, grain, [&](int64_t begin, int64_t end, int t) {
    forWanted(
        x, begin, end, [&](auto bits) { return bits >= least; },
        [&](int64_t, uint32_t bits) { (bits > least ? shares[t].above : shares[t].equal)++; });
  });
  int32_t* places = static_cast<int32_t*>(buffers[3]);
  Bf16* numbers = reinterpret_cast<Bf16*>(places + p.kept);
  parallelFor(p.count, threads, grain, [&](int64_t begin, int64_t end, int t) {
    int64_t at = 0, ties = left;
    for (int before = 0; before < t; before++) {
      const int64_t equal = shares[before].equal < ties ? shares[before].equal : ties;
      at += shares[before].above + equal, ties -= equal;
    }
    forWanted(
        x, begin, end, [&](auto bits) { return bits >= least; },
        [&](int64_t i, uint32_t bits) {
          if (bits == least && ties-- <= 0) return;
          places[at] = static_cast<int32_t>(i);
          numbers[at] = fromFloat<Bf16>(x[i]);
          if (next) next[i] = x[i] - toFloat(numbers[at]);
          at++;
        });
  });
  std::memset(static_cast<void*>(numbers + p.kept), 0, static_cast<size_t>(topKBytes(p.kept) - p.kept * 6));
}

// The first of `kept` ascending places that is not before `place`.
HADAL_INLINE int64_t firstFrom(const int32_t* places, int64_t kept, int64_t place) {
  int64_t low = 0, high = kept;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (places[middle] < place)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

void sum(const TopKSumParams& p, void* const* buffers, RunContext& context) {
  float* y = static_cast<float*>(buffers[1]);
  parallelFor(p.count, context.threads, grain, [&](int64_t begin, int64_t end, int) {
    std::memset(y + begin, 0, static_cast<size_t>(end - begin) * 4);
    for (int64_t r = 0; r < p.ranks; r++) {
      const char* message = static_cast<const char*>(buffers[0]) + r * topKBytes(p.kept);
      const int32_t* places = reinterpret_cast<const int32_t*>(message);
      const Bf16* numbers = reinterpret_cast<const Bf16*>(places + p.kept);
      int64_t least = begin;
      for (int64_t i = firstFrom(places, p.kept, begin); i < p.kept && places[i] < end; i++) {
        if (places[i] < least) {
          return context.fail("[top-k-sum] expected ascending places from rank %lld", static_cast<long long>(r));
        }
        y[places[i]] += toFloat(numbers[i]);
        least = places[i] + int64_t{1};
      }
    }
  });
}

}  // namespace

HADAL_KERNEL_WITH_WORKSPACE(topK, TopKParams, select, workspaceBytes)
HADAL_KERNEL(topKSum, TopKSumParams, sum)

}  // namespace HADAL_ISA
}  // namespace hadal
