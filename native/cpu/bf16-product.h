// Our product of bf16 factors, for machines with products of bf16 pairs (`hasPairProducts`).
#pragma once
#include "core/kernel.h"
#include "cpu/onednn.h"

namespace hadal {
namespace HADAL_ISA {

// Whether bf16Product takes this product on this machine.
bool bf16ProductTakes(const Product& product);

// Workspace that a thread needs for a product of any size.
int64_t bf16ProductWorkspace();

// c = op(a)·op(b), or c += …, with its addend. From within a parallel region: threads = 1.
void bf16Product(const Product& product, int threads, void* workspace);

}  // namespace HADAL_ISA
}  // namespace hadal
