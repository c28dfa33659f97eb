// Joining and padding along one dim, seen as [O outer, row].
//   concat: out[o] = in_0[o] ‖ in_1[o] ‖ …, row n of rowBytes[n] bytes.
//   unslice: out[o] = zeros, with in[o] (inBytes long) at startBytes: the gradient of a slice.
// Bytes: each input is read once, out is written once.
#pragma once
#include "core/kernel.h"

namespace hadal {
namespace {

inline constexpr int concatInputs = 16;

struct ConcatParams {
  int64_t outer, inputs, rowBytes[concatInputs];

  const char* check() const {
    if (inputs < 1 || inputs > concatInputs) return "expected 1 to 16 inputs";
    if (outer < 0 || outer > (int64_t{1} << 40)) return "expected outer from 0 to 2^40";
    for (int64_t n = 0; n < inputs; n++)
      if (rowBytes[n] < 0 || rowBytes[n] > (int64_t{1} << 40) / (outer + 1))
        return "expected row sizes from 0 to 2^40 bytes in all";
    return nullptr;
  }
  int64_t outBytes() const {
    int64_t bytes = 0;
    for (int64_t n = 0; n < inputs; n++) bytes += rowBytes[n];
    return bytes;
  }
  BufferList buffers() const {
    BufferList list;
    for (int n = 0; n < concatInputs; n++) list.in("in", n < inputs ? outer * rowBytes[n] : 0);
    return list.out("out", outer * outBytes());
  }
};

struct UnsliceParams {
  int64_t outer, inBytes, startBytes, outBytes;

  const char* check() const {
    if (outer < 0 || inBytes < 0 || startBytes < 0 || outBytes < 0 || outBytes > (int64_t{1} << 40) / (outer + 1))
      return "expected sizes from 0 to 2^40";
    if (inBytes > outBytes || startBytes > outBytes - inBytes) return "expected the slice to lie inside the row";
    return nullptr;
  }
  BufferList buffers() const { return BufferList().in("in", outer * inBytes).out("out", outer * outBytes); }
};

HADAL_CONTRACT(concat, "concat", ConcatParams, outer, inputs, rowBytes);
HADAL_CONTRACT(unslice, "unslice", UnsliceParams, outer, inBytes, startBytes, outBytes);

}  // namespace
}  // namespace hadal
