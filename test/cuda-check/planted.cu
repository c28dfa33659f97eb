// Kernels that the gates must refuse, each for one reason, and one that they must let pass. Compiled by gates.test.ts; never run.
#include "cuda/launch.cuh"

namespace hadal {
namespace cuda {
namespace planted {

// Eight blocks of 256 threads leave 32 registers a thread: not enough for these.
__device__ void spills(const float* x, float* y) {
  float kept[48];
  for (int i = 0; i < 48; i++) kept[i] = x[threadIdx.x * 48 + i];
  __syncthreads();
  for (int round = 0; round < 3; round++)
    for (int i = 0; i < 48; i++) kept[i] = kept[i] * kept[(i + 7) % 48] + kept[(i + 31) % 48];
  for (int i = 0; i < 48; i++) y[threadIdx.x * 48 + i] = kept[i];
}

// Indexed at run time, the array cannot be in registers.
__device__ void local(const int32_t* x, float* y) {
  float kept[64];
  for (int i = 0; i < 64; i++) kept[i] = y[threadIdx.x * 64 + i];
  kept[x[threadIdx.x] & 63] += 1;
  y[threadIdx.x] = kept[x[threadIdx.x + 1] & 63];
}

void launchPlanted(RunContext& context) {
  const float* x = nullptr;
  launch<spills, 256, 8>(context, {}, x, static_cast<float*>(nullptr));
  launch<local, 256>(context, {}, static_cast<const int32_t*>(nullptr), static_cast<float*>(nullptr));
}

}  // namespace planted

// The names of kernels that multiply matrices.
namespace matmul {

struct Tiles {
  uint16_t a[64 * 64], b[64 * 64];
};

template <class T>
__device__ void multiply(const T* a, const T* b, float* y, int steps) {
  auto& s = shared<Tiles>();
  float d[8][4] = {};
  for (int step = 0; step < steps; step++) {
    copyAsync16(&s.a[threadIdx.x * 8], a + step * 4096 + threadIdx.x * 8, true);
    copyAsync16(&s.b[threadIdx.x * 8], b + step * 4096 + threadIdx.x * 8, true);
    commitCopies();
    awaitCopies<0>();
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 8; i++) {
      uint32_t left[4], right[2];
      loadMatrices4(left, &s.a[laneId() * 64 + i * 8]);
      loadMatrices2(right, &s.b[laneId() * 64 + i * 8]);
      multiplyAdd<T>(d[i], left, right);
    }
    __syncthreads();
  }
  for (int i = 0; i < 8; i++)
    for (int j = 0; j < 4; j++) y[threadIdx.x * 32 + i * 4 + j] = d[i][j];
}

template <class T, int columns>
__device__ void multiply(const T* a, const T* b, float* y) {
  float total = 0;
  for (int i = 0; i < columns; i++) total += toFloat(a[i]) * toFloat(b[i]);
  y[threadIdx.x] = total;
}

void launchProducts(RunContext& context) {
  const Bf16* a = nullptr;
  float* y = nullptr;
  launch<multiply<Bf16>, 128>(context, {.sharedBytes = sizeof(Tiles)}, a, a, y, 4);
  launch<multiply<Bf16, 8>, 128>(context, {}, a, a, y);
}

}  // namespace matmul
}  // namespace cuda
}  // namespace hadal
