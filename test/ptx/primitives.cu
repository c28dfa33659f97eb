// Everything that nvcc/primitives.cuh says in PTX, in one kernel: c = a·b of a 16×16 matrix, of which `rows` rows are
// wanted, with a 16×8 one, rounded to T first; e = 2^(c / 64); f = c rounded to T.
#include "cuda/launch.cuh"

namespace hadal {
namespace cuda {
namespace test_primitives {

struct Shared {
  uint16_t a[16 * 16], b[16 * 8];
};

template <class T>
__device__ void product(int rows, const float* a, const float* b, uint32_t* roundedA, uint32_t* roundedB, float* c,
                        float* e, float* f) {
  auto& s = shared<Shared>();
  const int lane = laneId();
  for (int i = lane; i < 128; i += warpSize) roundedA[i] = packPair<T>(a[2 * i], a[2 * i + 1]);
  for (int i = lane; i < 64; i += warpSize) roundedB[i] = packPair<T>(b[2 * i], b[2 * i + 1]);
  __syncwarp();
  copyAsync16(&s.a[lane * 8], roundedA + lane * 4, lane / 2 < rows);
  commitCopies();
  if (lane < 16) copyAsync16(&s.b[lane * 8], roundedB + lane * 4, true);
  commitCopies();
  awaitCopies<0>();
  __syncwarp();
  uint32_t tileA[4], tileB[2];
  loadMatrices4(tileA, &s.a[(lane % 8 + lane / 8 % 2 * 8) * 16 + lane / 16 * 8]);
  loadMatrices2Transposed(tileB, &s.b[lane % 16 * 8]);
  float d[4] = {};
  multiplyAdd<T>(d, tileA, tileB);
  for (int n = 0; n < 4; n++) {
    const int at = (lane / 4 + n / 2 * 8) * 8 + lane % 4 * 2 + n % 2;
    c[at] = d[n];
    e[at] = exp2Approximate(d[n] / 64);
    f[at] = toFloat(fromFloat<T>(d[n]));
  }
}

void run(RunContext& context, const float* a, uint32_t* rounded, float* c) {
  launch<product<Bf16>, warpSize>(context, {.sharedBytes = sizeof(Shared)}, 16, a, a, rounded, rounded, c, c, c);
  launch<product<F16>, warpSize>(context, {.sharedBytes = sizeof(Shared)}, 16, a, a, rounded, rounded, c, c, c);
}

}  // namespace test_primitives
}  // namespace cuda
}  // namespace hadal
