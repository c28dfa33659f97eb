// Attention with tiles of scores and running softmax statistics. Dao 2023 (FlashAttention-2), arXiv:2307.08691, alg. 1 and 2.
//   s = scale · q·kᵀ over the keys a query sees,  logsumexp = log Σ eˢ,  p = e^(s − logsumexp),  o = p·v
//   delta = Σ do·o,  dv = pᵀ·do,  ds = p·(do·vᵀ − delta),  dq = scale · ds·k,  dk = scale · dsᵀ·q
// B batch, T queries, S keys (capacity of a cache), H heads, G kv heads (each serves H/G heads), D size of q and k, E size of v.
// q_BTHD, k_BSGD, v_BSGE, o_BTHE and their gradients in dtype; logsumexp_BHT fp32; docIds_BT, start_B int32. With valueInKey
// there is no v: the first E numbers of a row of k are its value (forward only).
// A query sees all keys; with causal only keys up to its own position; with docIds only keys of its own run of equal ids (T = S;
// negative ids are padding: they see nothing and nobody sees them); with start keys 0 … start + its index, and no others are read
// (ids then only tell padding, behind the others).
// A query that sees nothing has o = 0 and logsumexp = 0.
// Bytes: forward reads q, k, v, writes o. Backward reads do, q, k, v, o, writes dq, dk, dv. Scores stay in the cache.
#pragma once
#include "core/kernel.h"

namespace hadal {
namespace {

struct AttentionParams {
  int64_t batch, queries, keys, heads, kvHeads, keyDim, valueDim, valueInKey, causal;
  double scale;
  DType dtype;

  const char* check() const {
    const int64_t sizes[] = {batch, queries, keys, heads, kvHeads, keyDim, valueDim};
    for (const int64_t size : sizes)
      if (size < 0 || size > INT32_MAX) return "expected sizes of 0 to 2^31 - 1";
    if (kvHeads < 1 || heads % kvHeads || keyDim < 1 || valueDim < 1)
      return "expected head sizes of 1 or more and heads that are a multiple of kvHeads";
    if (valueInKey < 0 || valueInKey > 1 || (valueInKey && valueDim > keyDim))
      return "expected valueInKey 0, or 1 with values no wider than keys";
    if (!isFloat(dtype)) return "expected a float dtype";
    const __int128 widest = keyDim > valueDim ? keyDim : valueDim, entries = batch > 1 ? batch : 1;
    const __int128 most = __int128{1} << 48;  // numbers in a tensor; four factors fit 124 bits
    if (widest * entries * queries * heads > most || widest * entries * keys * kvHeads > most) return "sizes overflow";
    return nullptr;
  }
  int64_t group() const { return heads / kvHeads; }
  int64_t q() const { return batch * queries * heads * keyDim * bytesOf(dtype); }
  int64_t k() const { return batch * keys * kvHeads * keyDim * bytesOf(dtype); }
  int64_t v() const { return valueInKey ? 0 : batch * keys * kvHeads * valueDim * bytesOf(dtype); }
  int64_t o() const { return batch * queries * heads * valueDim * bytesOf(dtype); }
  int64_t statistics() const { return batch * heads * queries * 4; }
  BufferList buffers() const {
    return BufferList()
        .in("q", q())
        .in("k", k())
        .in("v", v())
        .optional("docIds", batch * queries * 4)
        .optional("start", batch * 4)
        .out("o", o())
        .optional("logsumexp", statistics(), Access::out);
  }
};

struct AttentionBackwardParams : AttentionParams {
  const char* check() const { return valueInKey ? "expected values beside the keys" : AttentionParams::check(); }
  BufferList buffers() const {
    return BufferList()
        .in("do", o())
        .in("q", q())
        .in("k", k())
        .in("v", v())
        .in("o", o())
        .in("logsumexp", statistics())
        .optional("docIds", batch * queries * 4)
        .optional("start", batch * 4)
        .optional("dq", q(), Access::out)
        .optional("dk", k(), Access::out)
        .optional("dv", v(), Access::out);
  }
};

HADAL_CONTRACT(attention, "attention", AttentionParams, batch, queries, keys, heads, kvHeads, keyDim, valueDim,
               valueInKey, causal, scale, dtype);
HADAL_CONTRACT(attentionBackward, "attention-backward", AttentionBackwardParams, batch, queries, keys, heads, kvHeads,
               keyDim, valueDim, valueInKey, causal, scale, dtype);

}  // namespace
}  // namespace hadal
