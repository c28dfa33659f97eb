// Selected by the build where oneDNN is not installed: the blocked product of matmul.cpp serves.
#include "cpu/onednn.h"

namespace hadal {

const char* onednnVersion() noexcept { return "oneDNN is not part of this build"; }
bool onednnTakes(DType, DType) noexcept { return false; }
bool onednnHasBf16Tiles() noexcept { return false; }
bool onednnProduct(const Product&) noexcept { return false; }

}  // namespace hadal
