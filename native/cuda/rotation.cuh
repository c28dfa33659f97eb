// The rotation of pairs by the angle of a token's position (native/ops/rotary.h), and kernels that move pieces of heads, some of
// them rotated.
#pragma once
#include "cuda/packs.cuh"

namespace hadal {
namespace cuda {

struct RotationTable {
  const float *cos, *sin;  // [P, pairs]
  const int32_t* positions;
  int64_t count;  // P
  int pairs;
  bool isInterleaved;
  float sign;  // −1 turns back

  // Of a token; reported, and −1, where the tables have no such row.
  __device__ __forceinline__ int64_t positionOf(int64_t token, FaultSite faults) const {
    const int64_t position = positions[token];
    if (position >= 0 && position < count) return position;
    faults.report(position);
    return -1;
  }
};

// The numbers of n pairs, from pair j on, of a head's rotary dims.
template <int n, class T>
__device__ __forceinline__ void loadPairs(const RotationTable& table, int64_t j, const T* x, float (&a)[n],
                                          float (&b)[n]) {
  if (table.isInterleaved) {
    float both[2 * n];
    loadNumbers(both, x + 2 * j, 2 * n, n > 1);
#pragma unroll
    for (int k = 0; k < n; k++) a[k] = both[2 * k], b[k] = both[2 * k + 1];
  } else {
    loadNumbers(a, x + j, n, true);
    loadNumbers(b, x + table.pairs + j, n, true);
  }
}
template <int n, class T>
__device__ __forceinline__ void storePairs(const RotationTable& table, int64_t j, T* y, const float (&a)[n],
                                           const float (&b)[n]) {
  if (table.isInterleaved) {
    float both[2 * n];
#pragma unroll
    for (int k = 0; k < n; k++) both[2 * k] = a[k], both[2 * k + 1] = b[k];
    storeNumbers(y + 2 * j, 2 * n, n > 1, both);
  } else {
    storeNumbers(y + j, n, true, a);
    storeNumbers(y + table.pairs + j, n, true, b);
  }
}

// (a, b) → (a·cos − b·sin, a·sin + b·cos)
template <int n>
__device__ __forceinline__ void rotate(const RotationTable& table, int64_t position, int64_t j, float (&a)[n],
                                       float (&b)[n]) {
  float cos[n], sin[n];
  loadNumbers(cos, table.cos + position * table.pairs + j, n, true);
  loadNumbers(sin, table.sin + position * table.pairs + j, n, true);
#pragma unroll
  for (int k = 0; k < n; k++) {
    const float first = a[k], second = b[k], s = table.sign * sin[k];
    a[k] = first * cos[k] - second * s;
    b[k] = first * s + second * cos[k];
  }
}

// ---- Heads in pieces

// Dims of every head that go from one tensor to another, in packs: of rotated ones, packs of pairs. The same memory may be both:
// a thread reads what it writes before.
struct HeadPiece {
  const void* from;
  void* to;
  int64_t fromStride, toStride;  // numbers from a head to the next
  int packs;
  bool isRotated;
  bool isShared;  // `from` has one head a token
};

struct HeadPieces {
  RotationTable table;
  int64_t tokens;
  HeadPiece at[5] = {};
  int count = 0;
  int64_t packs = 0;  // of a head
  Divider heads = {}, perHead = {};

  void add(const HeadPiece& piece) {
    if (piece.packs == 0) return;
    at[count++] = piece;
    packs += piece.packs;
  }
};

// A thread takes a pack of one piece.
template <class T, int n>
__device__ void moveHeads(const HeadPieces& pieces, FaultSite faults) {
  int64_t pack, head;
  const int64_t i = pieces.perHead.divide(static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x, pack);
  const int64_t token = pieces.heads.divide(i, head);
  if (token >= pieces.tokens) return;
  int which = 0;
  for (; pack >= pieces.at[which].packs; which++) pack -= pieces.at[which].packs;
  const HeadPiece& piece = pieces.at[which];
  const T* const from = static_cast<const T*>(piece.from) + (piece.isShared ? token : i) * piece.fromStride;
  T* const to = static_cast<T*>(piece.to) + i * piece.toStride;
  if (!piece.isRotated) return storePack<T, n>(to + pack * n, n, true, loadPack<T, n>(from + pack * n, n, true));
  const int64_t position = pieces.table.positionOf(token, faults);
  if (position < 0) return;
  float a[n], b[n];
  loadPairs(pieces.table, pack * n, from, a, b);
  rotate(pieces.table, position, pack * n, a, b);
  storePairs(pieces.table, pack * n, to, a, b);
}

template <class T, int n>
void launchMoves(RunContext& context, HeadPieces pieces, int64_t heads) {
  pieces.heads = Divider(heads), pieces.perHead = Divider(pieces.packs);
  launch<moveHeads<T, n>, threads>(context, {.x = blocksFor(pieces.tokens * heads * pieces.packs, threads)}, pieces,
                                   faultsOf(context));
}

}  // namespace cuda
}  // namespace hadal
