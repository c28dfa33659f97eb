// oneDNN 2.6 (3.x compiles too, and has not been run). fp32 goes to dnnl_sgemm. bf16 goes to matmul primitives with
// run-time sizes: one for each way of transposing and accumulating, made once, instead of a cache that expert batches (new
// sizes every step) would flood; they run at the speed of those made for one shape. fp16 is refused: 2.6 has no such product.
#include "cpu/onednn.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <optional>

#include <dnnl.hpp>

#include "core/registry.h"

namespace hadal {

namespace {

// oneDNN chooses its own code; where ours is held back by HADAL_ISA, so is oneDNN's.
void holdBack() {
  if (chosenIsa() == Isa::avx512) dnnl_set_max_cpu_isa(dnnl_cpu_isa_avx512_core);
  if (chosenIsa() == Isa::avx2) dnnl_set_max_cpu_isa(dnnl_cpu_isa_avx2);
  if (chosenIsa() == Isa::portable) dnnl_set_max_cpu_isa(dnnl_cpu_isa_sse41);
}

// Asked before anything else is.
bool switchedOff() {
  static const bool off = [] {
    holdBack();
    const char* value = std::getenv("HADAL_NO_ONEDNN");
    return value && *value && std::strcmp(value, "0") != 0;
  }();
  return off;
}

const dnnl::engine& cpu() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

dnnl::memory::desc matrix(int64_t rows, int64_t columns, int64_t stride, bool transposed,
                          dnnl::memory::data_type type) {
  using Dims = dnnl::memory::dims;
  return {Dims{rows, columns}, type, transposed ? Dims{1, stride} : Dims{stride, 1}};
}

constexpr auto bf16 = dnnl::memory::data_type::bf16;
constexpr auto fp32 = dnnl::memory::data_type::f32;

// Null where this machine has no fast bf16 product.
std::optional<dnnl::matmul> makeBf16Product(bool transposeA, bool transposeB, bool accumulate) {
  try {
    const int64_t any = DNNL_RUNTIME_DIM_VAL;
    const auto a = matrix(any, any, any, transposeA, bf16), b = matrix(any, any, any, transposeB, bf16);
    const auto c = matrix(any, any, any, false, fp32);
    dnnl::primitive_attr attributes;
    // No scratchpad of the library's, which would tie the primitive to the thread that made it.
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (accumulate) {
      dnnl::post_ops sum;
      sum.append_sum(1.0f);
      attributes.set_post_ops(sum);
    }
#if DNNL_VERSION_MAJOR >= 3
    const dnnl::matmul::primitive_desc description(cpu(), a, b, c, attributes);
#else
    const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(a, b, c), attributes, cpu());
#endif
    if (std::strstr(description.impl_info_str(), "ref")) return std::nullopt;
    if (description.scratchpad_desc().get_size() != 0) return std::nullopt;
    return dnnl::matmul(description);
  } catch (const dnnl::error&) {
    return std::nullopt;
  }
}

const dnnl::matmul* bf16Product(bool transposeA, bool transposeB, bool accumulate) {
  static std::once_flag made[8];
  static std::optional<dnnl::matmul> products[8];
  const int index = transposeA * 4 + transposeB * 2 + accumulate;
  std::call_once(made[index], [&] { products[index] = makeBf16Product(transposeA, transposeB, accumulate); });
  return products[index] ? &*products[index] : nullptr;
}

bool runBf16(const Product& p) {
  const dnnl::matmul* product = bf16Product(p.a.transposed, p.b.transposed, p.accumulate);
  if (!product) return false;
  const dnnl::memory a(matrix(p.m, p.k, p.a.stride, p.a.transposed, bf16), cpu(), const_cast<void*>(p.a.data));
  const dnnl::memory b(matrix(p.k, p.n, p.b.stride, p.b.transposed, bf16), cpu(), const_cast<void*>(p.b.data));
  const dnnl::memory c(matrix(p.m, p.n, p.strideC, false, fp32), cpu(), p.c);
  dnnl::stream stream(cpu());
  product->execute(stream, {{DNNL_ARG_SRC, a}, {DNNL_ARG_WEIGHTS, b}, {DNNL_ARG_DST, c}});
  stream.wait();
  return true;
}

bool runFp32(const Product& p) {
  return dnnl_sgemm(p.a.transposed ? 'T' : 'N', p.b.transposed ? 'T' : 'N', p.m, p.n, p.k, 1.0f,
                    static_cast<const float*>(p.a.data), p.a.stride, static_cast<const float*>(p.b.data), p.b.stride,
                    p.accumulate ? 1.0f : 0.0f, static_cast<float*>(p.c), p.strideC) == dnnl_success;
}

}  // namespace

const char* onednnVersion() noexcept {
  if (switchedOff()) return "oneDNN is switched off by HADAL_NO_ONEDNN";
  static char text[32];
  static std::once_flag written;
  std::call_once(written, [] {
    const dnnl_version_t* version = dnnl_version();
    std::snprintf(text, sizeof(text), "oneDNN %d.%d.%d", version->major, version->minor, version->patch);
  });
  return text;
}

bool onednnTakes(DType a, DType b) noexcept {
  if (switchedOff() || a != b) return false;
  return a == DType::fp32 || (a == DType::bf16 && bf16Product(false, false, false));
}

bool onednnHasBf16Tiles() noexcept {
  if (switchedOff()) return false;
  static const bool hasTiles =
      (dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core_amx) == dnnl_cpu_isa_avx512_core_amx;
  return hasTiles && onednnTakes(DType::bf16, DType::bf16);
}

bool onednnProduct(const Product& product) noexcept {
  if (product.dtypeC != DType::fp32 || !onednnTakes(product.a.dtype, product.b.dtype)) return false;
  try {
    return product.a.dtype == DType::fp32 ? runFp32(product) : runBf16(product);
  } catch (const std::exception&) {
    return false;
  }
}

}  // namespace hadal
