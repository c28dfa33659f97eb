// The part of cuBLASLt's C interface that is used, so that no header of it is needed to build. Compared with cublasLt.h of cuBLAS
// 13.10 and 12.9 by static assertions when it was written.
#pragma once
#include <cstddef>
#include <cstdint>

namespace hadal::cuda::cublaslt {

struct Context;  // cublasLtContext
struct MatmulDesc;
struct MatrixLayout;
struct Preference;
using Stream = void*;

enum class Status : int { success = 0, notInitialized = 1, invalidValue = 7, executionFailed = 13, notSupported = 15 };

enum class DataType : int { fp32 = 0, fp16 = 2, bf16 = 14 };  // cudaDataType
// cublasComputeType_t. `fp32` multiplies 16-bit factors on tensor cores and adds in fp32; `fp32Pedantic` takes fp32 factors as
// they are, never as tf32.
enum class ComputeType : int { fp32 = 68, fp32Pedantic = 69 };
enum class Operation : int32_t { none = 0, transpose = 1 };
enum class Epilogue : uint32_t { none = 1, bias = 4 };

enum class DescAttribute : int { transA = 3, transB = 4, epilogue = 7, biasPointer = 8 };
enum class LayoutAttribute : int { batchCount = 5, stridedBatchOffset = 6 };
enum class PreferenceAttribute : int {
  maxWorkspaceBytes = 1,
  reductionSchemeMask = 3,
  minAlignmentA = 5,
  minAlignmentB = 6,
  minAlignmentC = 7,
  minAlignmentD = 8
};

// How sums of parts of the terms may be added: not at all (there are no parts), or by a kernel of their own from the workspace,
// where they lie in fp32. Both give the same bits every time; the other ways add in c, or round between.
inline constexpr uint32_t deterministicReductions = 0 | 2;  // none | computeType

struct Algorithm {
  uint64_t data[8];
};
struct HeuristicResult {
  Algorithm algorithm;
  size_t workspaceBytes;
  Status state;
  float wavesCount;
  int reserved[4];
};

// name in here, name in the library, result, parameters
#define HADAL_CUBLASLT_FUNCTIONS(X)                                                                                 \
  X(getVersion, cublasLtGetVersion, size_t, ())                                                                     \
  X(create, cublasLtCreate, Status, (Context * *context))                                                           \
  X(descCreate, cublasLtMatmulDescCreate, Status, (MatmulDesc * *desc, ComputeType compute, DataType scale))        \
  X(descDestroy, cublasLtMatmulDescDestroy, Status, (MatmulDesc * desc))                                            \
  X(descSet, cublasLtMatmulDescSetAttribute, Status,                                                                \
    (MatmulDesc * desc, DescAttribute attribute, const void* value, size_t bytes))                                  \
  X(layoutCreate, cublasLtMatrixLayoutCreate, Status,                                                               \
    (MatrixLayout * *layout, DataType type, uint64_t rows, uint64_t columns, int64_t stride))                       \
  X(layoutDestroy, cublasLtMatrixLayoutDestroy, Status, (MatrixLayout * layout))                                    \
  X(layoutSet, cublasLtMatrixLayoutSetAttribute, Status,                                                            \
    (MatrixLayout * layout, LayoutAttribute attribute, const void* value, size_t bytes))                            \
  X(preferenceCreate, cublasLtMatmulPreferenceCreate, Status, (Preference * *preference))                           \
  X(preferenceDestroy, cublasLtMatmulPreferenceDestroy, Status, (Preference * preference))                          \
  X(preferenceSet, cublasLtMatmulPreferenceSetAttribute, Status,                                                    \
    (Preference * preference, PreferenceAttribute attribute, const void* value, size_t bytes))                      \
  X(getHeuristic, cublasLtMatmulAlgoGetHeuristic, Status,                                                           \
    (Context * context, MatmulDesc * desc, MatrixLayout * a, MatrixLayout * b, MatrixLayout * c, MatrixLayout * d,  \
     Preference * preference, int wanted, HeuristicResult* results, int* count))                                    \
  X(matmul, cublasLtMatmul, Status,                                                                                 \
    (Context * context, MatmulDesc * desc, const void* alpha, const void* a, MatrixLayout* layoutA, const void* b,  \
     MatrixLayout* layoutB, const void* beta, const void* c, MatrixLayout* layoutC, void* d, MatrixLayout* layoutD, \
     const Algorithm* algorithm, void* workspace, size_t workspaceBytes, Stream stream))

struct Api {
#define HADAL_DECLARE(name, symbol, result, parameters) result(*name) parameters = nullptr;
  HADAL_CUBLASLT_FUNCTIONS(HADAL_DECLARE)
#undef HADAL_DECLARE
};

// What the stand-in for tests (native/sim/cublaslt.cpp) has besides: it is told how to put a function on a stream.
using Enqueue = int (*)(Stream stream, void (*function)(void*), void* data);
inline constexpr const char* setEnqueueSymbol = "hadalCublasLtSetEnqueue";
using SetEnqueue = void (*)(Enqueue enqueue);

}  // namespace hadal::cuda::cublaslt
