// Formulas, shapes, bytes: native/ops/latent-heads.h. Heads are moved in pieces: a thread rotates a pack of pairs, 32 bytes, or
// copies 16 bytes. The shared key is read again for each head, from L1 or L2.
#include "ops/latent-heads.h"

#include "cuda/rotation.cuh"

namespace hadal {
namespace cuda {
namespace latent_heads {

// The table is the first of three buffers: cos, sin, positions.
HeadPieces piecesOf(const LatentHeadsParams& p, void* const* table, float sign) {
  return {.table = {static_cast<const float*>(table[0]), static_cast<const float*>(table[1]),
                    static_cast<const int32_t*>(table[2]), p.positions, static_cast<int>(p.rotaryDims / 2),
                    p.interleaved != 0, sign},
          .tokens = p.tokens};
}

template <class T, int n>
void forward(const LatentHeadsParams& p, void* const* b, RunContext& context) {
  const int64_t plain = p.plainDims(), wide = p.keyValueDims();
  const int pairPacks = static_cast<int>(p.rotaryDims / 2 / n), plainPacks = static_cast<int>(plain / n);
  const T* const q = static_cast<const T*>(b[0]);
  const T* const keyValue = static_cast<const T*>(b[1]);
  T* const rotated = static_cast<T*>(b[6]);
  T* const k = static_cast<T*>(b[7]);
  HeadPieces pieces = piecesOf(p, b + 3, 1);
  pieces.add({q + plain, rotated + plain, p.dim, p.dim, pairPacks, true, false});
  pieces.add({b[2], k + plain, p.rotaryDims, p.dim, pairPacks, true, true});
  if (q != rotated) pieces.add({q, rotated, p.dim, p.dim, plainPacks, false, false});
  pieces.add({keyValue, k, wide, p.dim, plainPacks, false, false});
  pieces.add({keyValue + plain, b[8], wide, p.valueDim, static_cast<int>(p.valueDim / n), false, false});
  launchMoves<T, n>(context, pieces, p.heads);
}

// ---- dsharedKey = Σ_heads dk's last R dims, rotated back. Eight lanes share the heads of a pack of pairs: enough threads for the
// few numbers of a result, each with several loads under way.

constexpr int sharers = 8;

struct SharedKey {
  RotationTable table;
  int64_t tokens, heads, dim;  // of dk
  int64_t width;               // of dsharedKey
  Divider packs;               // of a token
};

template <class T, int n>
__device__ void sumHeads(const SharedKey& s, const T* dk, T* dsharedKey, FaultSite faults) {
  int64_t pack;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  const int64_t token = s.packs.divide(i / sharers, pack);
  float totalA[n] = {}, totalB[n] = {};
  if (token < s.tokens) {
#pragma unroll 2
    for (int64_t head = i % sharers; head < s.heads; head += sharers) {
      float a[n], b[n];
      loadPairs(s.table, pack * n, dk + (token * s.heads + head) * s.dim, a, b);
#pragma unroll
      for (int j = 0; j < n; j++) totalA[j] += a[j], totalB[j] += b[j];
    }
  }
#pragma unroll
  for (int j = 0; j < n; j++)
    for (int width = sharers / 2; width > 0; width /= 2) {
      totalA[j] += __shfl_xor_sync(wholeWarp, totalA[j], width);
      totalB[j] += __shfl_xor_sync(wholeWarp, totalB[j], width);
    }
  if (i % sharers != 0 || token >= s.tokens) return;
  const int64_t position = s.table.positionOf(token, faults);
  if (position < 0) return;
  rotate(s.table, position, pack * n, totalA, totalB);
  storePairs(s.table, pack * n, dsharedKey + token * s.width, totalA, totalB);
}

template <class T, int n>
void backward(const LatentHeadsParams& p, void* const* b, RunContext& context) {
  const int64_t plain = p.plainDims(), wide = p.keyValueDims();
  const int pairPacks = static_cast<int>(p.rotaryDims / 2 / n), plainPacks = static_cast<int>(plain / n);
  const T* const drotated = static_cast<const T*>(b[0]);
  const T* const dk = static_cast<const T*>(b[1]);
  T* const dq = static_cast<T*>(b[6]);
  T* const dkeyValue = static_cast<T*>(b[7]);
  HeadPieces pieces = piecesOf(p, b + 3, -1);
  pieces.add({drotated + plain, dq + plain, p.dim, p.dim, pairPacks, true, false});
  if (drotated != dq) pieces.add({drotated, dq, p.dim, p.dim, plainPacks, false, false});
  pieces.add({dk, dkeyValue, p.dim, wide, plainPacks, false, false});
  pieces.add({b[2], dkeyValue + plain, p.valueDim, wide, static_cast<int>(p.valueDim / n), false, false});
  launchMoves<T, n>(context, pieces, p.heads);
  const SharedKey sharedKey{pieces.table, p.tokens, p.heads, p.dim, p.rotaryDims, Divider(pairPacks)};
  launch<sumHeads<T, n>, threads>(context, {.x = blocksFor(p.tokens * pairPacks * sharers, threads)}, sharedKey,
                                  dk + plain, static_cast<T*>(b[8]), faultsOf(context));
}

// Calls f(zero of the dtype, tag of how many numbers make a pack): 16 bytes, or one number where sizes or addresses do not fit.
template <class F>
void dispatchPacks(const LatentHeadsParams& p, void* const* b, F&& f) {
  dispatch(p.dtype, [&](auto t) {
    constexpr int n = packed<decltype(t)>;
    bool isWide = (p.dim | p.valueDim | p.rotaryDims / 2) % n == 0;
    for (int k = 0; k < 9; k++) isWide = isWide && (k == 5 || isAligned(b[k], 16));  // 5: positions
    isWide ? f(t, std::integral_constant<int, n>{}) : f(t, std::integral_constant<int, 1>{});
  });
}

void run(const LatentHeadsParams& p, void* const* b, RunContext& context) {
  dispatchPacks(p, b, [&](auto t, auto n) { forward<decltype(t), n.value>(p, b, context); });
}
void runBackward(const LatentHeadsBackwardParams& p, void* const* b, RunContext& context) {
  dispatchPacks(p, b, [&](auto t, auto n) { backward<decltype(t), n.value>(p, b, context); });
}

int64_t noWorkspace(const LatentHeadsParams&, int) { return 0; }

void explain(const LatentHeadsParams& p, const Fault& fault, RunContext& context) {
  context.fail("[latent-heads] expected positions of 0 to %lld, got %lld", static_cast<long long>(p.positions - 1),
               static_cast<long long>(fault.numbers[0]));
}

}  // namespace latent_heads

HADAL_KERNEL_WITH_FAULTS(latentHeads, LatentHeadsParams, latent_heads::run, latent_heads::noWorkspace,
                         latent_heads::explain)
HADAL_KERNEL_WITH_FAULTS(latentHeadsBackward, LatentHeadsBackwardParams, latent_heads::runBackward,
                         latent_heads::noWorkspace, latent_heads::explain)

}  // namespace cuda
}  // namespace hadal
