// Elementwise expressions. out[i] = f(in_0[i], …, in_7[i]) for f given in postfix, run tile by tile so that a whole
// expression passes over memory once. Broadcasting, transposes and slices are strides and offsets of the inputs.
//
// out is dense with sizes `dims`; input n has strides `strides[n·6 + dim]` (elements) from `offsets[n]`.
// `code`: push input n = {0, n}, push constant n = {1, n}, else an opcode of ElementwiseOp. Arithmetic is fp32; int32
// numbers are exact to 2^24, and exact throughout when the expression only copies.
// With `extent` (int32 [1]), only the first extent · rowElements elements are computed.
// Bytes: reads each input once, writes out once.
#pragma once
#include "core/kernel.h"
#include "core/sizes.h"

namespace hadal {
namespace {

// Numbers shared with the table in src/ops/elementwise.ts.
// clang-format off
enum class ElementwiseOp : uint8_t {
  pushInput = 0, pushConstant = 1,
  add = 2, subtract = 3, multiply = 4, divide = 5, maximum = 6, minimum = 7,
  equal = 8, less = 9, lessEqual = 10,
  negate = 16, reciprocal = 17, exp = 18, log = 19, sqrt = 20, rsqrt = 21, square = 22, abs = 23, sign = 24,
  sigmoid = 25, tanh = 26, silu = 27, gelu = 28, erf = 29, relu = 30, sin = 31, cos = 32, floor = 33, isFinite = 34,
  log1p = 35, identity = 36, geluSlope = 37,
  where = 48,
};
// clang-format on

inline constexpr int elementwiseInputs = 8, elementwiseRank = 6, elementwiseCode = 128, elementwiseConstants = 16,
                     elementwiseStack = 8;

struct ElementwiseParams {
  int64_t rank, dims[elementwiseRank];
  int64_t inputs, offsets[elementwiseInputs], strides[elementwiseInputs * elementwiseRank];
  int64_t rowElements;
  int64_t codeBytes;
  double constants[elementwiseConstants];
  DType inputTypes[elementwiseInputs];
  DType outputType;
  uint8_t code[elementwiseCode];

  int64_t size() const {
    int64_t size = 1;
    for (int64_t d = 0; d < rank; d++) size *= dims[d];
    return size;
  }
  // How many numbers an opcode takes from the stack.
  static constexpr int arity(uint8_t op) { return op < 2 ? 0 : op < 16 ? 2 : op < 48 ? 1 : 3; }

  const char* check() const {
    if (rank < 1 || rank > elementwiseRank) return "expected rank 1 to 6";
    if (inputs < 0 || inputs > elementwiseInputs) return "expected at most 8 inputs";
    if (codeBytes < 1 || codeBytes > elementwiseCode) return "expected 1 to 128 bytes of code";
    if (rowElements < 0) return "expected rowElements >= 0";
    int64_t total = 1;
    for (int64_t d = 0; d < rank; d++) {
      if (dims[d] < 0 || dims[d] > (int64_t{1} << 40)) return "expected dims from 0 to 2^40";
      if (__builtin_mul_overflow(total, dims[d], &total) || total > (int64_t{1} << 40))
        return "expected at most 2^40 elements";
    }
    for (int64_t n = 0; n < inputs; n++) {
      if (offsets[n] < 0 || offsets[n] > (int64_t{1} << 40)) return "expected input offsets >= 0";
      for (int64_t d = 0; d < rank; d++)
        if (!sizeFits(strides[n * elementwiseRank + d], dims[d], 64)) return "expected strides >= 0 within 2^50";
      if (inputTypes[n] == DType::uint8) return "expected inputs of a float dtype or int32";
    }
    if (outputType == DType::uint8) return "expected an output of a float dtype or int32";
    return checkCode();
  }
  const char* checkCode() const {
    int depth = 0;
    for (int64_t at = 0; at < codeBytes;) {
      const uint8_t op = code[at++];
      if (op < 2) {
        if (at >= codeBytes || code[at] >= (op == 0 ? inputs : elementwiseConstants))
          return "the code pushes what is not there";
        at++;
      }
      if ((op > 10 && op < 16) || (op > 37 && op < 48) || op > 48) return "unknown opcode";
      depth += 1 - arity(op);
      if (depth < 1) return "the code takes more numbers than were pushed";
      if (depth > elementwiseStack) return "the code needs a stack deeper than 8";
    }
    return depth == 1 ? nullptr : "the code leaves more than one result";
  }
  int64_t inputBytes(int64_t n) const {
    if (n >= inputs || size() == 0) return 0;
    int64_t last = offsets[n];
    for (int64_t d = 0; d < rank; d++) last += (dims[d] - 1) * strides[n * elementwiseRank + d];
    return (last + 1) * bytesOf(inputTypes[n]);
  }
  BufferList buffers() const {
    static constexpr const char* names[] = {"in0", "in1", "in2", "in3", "in4", "in5", "in6", "in7"};
    BufferList list;
    for (int n = 0; n < elementwiseInputs; n++) list.in(names[n], inputBytes(n));
    return list.optional("extent", 4).out("out", size() * bytesOf(outputType));
  }
};

HADAL_CONTRACT(elementwise, "elementwise", ElementwiseParams, rank, dims, inputs, offsets, strides, rowElements,
               codeBytes, constants, inputTypes, outputType, code);

}  // namespace
}  // namespace hadal
