// Products for kernels that have some inside: by cuBLASLt where it takes them, else by the kernels of matmul.cu.
#pragma once
#include "cuda/cublaslt.h"

namespace hadal {
namespace cuda {

// Puts the product on the context's stream. The workspace is productWorkspace(product) bytes, aligned to 16.
void runProduct(const cublaslt::Product& product, void* workspace, RunContext& context);

// Follows from the sizes and dtypes alone; addresses need not be known yet.
int64_t productWorkspace(const cublaslt::Product& product);

}  // namespace cuda
}  // namespace hadal
