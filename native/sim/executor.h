// The host executor: runs a CUDA grid on this machine, a fiber a thread, warps and blocks kept as such. What threads do
// together (barriers, shuffles, products of matrices) suspends a fiber until everyone named is there; where that can
// never be, the launch ends with a report of who waits where. native/sim/primitives.cuh gives kernels its operations.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/kernel.h"
#include "sim/interpreter-hook.h"

namespace hadal {
namespace sim {

struct Index {
  unsigned x, y, z;
};

// What the running thread knows of itself. In memory of the OS thread, so that device code reads it with one instruction.
struct State {
  Index thread, block, blockSize, gridSize;
  unsigned char* shared;
  size_t sharedBytes;
};
extern thread_local constinit State state __attribute__((tls_model("initial-exec")));

// Where in the sources an operation stands: as a default argument, Site::here() is the caller's line.
struct Site {
  const char* file = nullptr;
  int line = 0;

  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

// ---- Operations of a block

enum class Vote { none, any, all, count };
int barrier(Vote vote, bool value, Site where);

// ---- Operations of a warp: by the lanes of the mask, which all come with the same operation and mask

enum class Shuffle { index, up, down, exclusiveOr };
enum class Reduction { addInt, minInt, maxInt, minUint, maxUint, bitAnd, bitOr, bitXor };

void syncWarp(uint32_t mask, Site where);
uint64_t shuffle(Shuffle kind, uint32_t mask, uint64_t value, int argument, int width, Site where);
uint32_t ballot(uint32_t mask, bool value, Site where);
uint32_t matchAny(uint32_t mask, uint64_t value, Site where);
uint32_t reduce(Reduction kind, uint32_t mask, uint32_t value, Site where);
// `count` matrices into `registers`, see primitives.cuh.
void loadMatrices(uint32_t* registers, const void* row, int count, bool isTransposed, Site where);
void multiplyAdd(float* d, const uint32_t* a, const uint32_t* b, bool isBf16, Site where);

// ---- Copies of a thread

void copyAsync(void* shared, const void* global, int bytes, bool isWanted, Site where);
void commitCopies();
void awaitCopies(int pending);

// Order in memory, for all of the device.
void fence();
// Around an atomic, where ThreadSanitizer watches.
void beforeAtomic(void* address);
void afterAtomic(void* address);

// Ends the launch: something that hardware leaves undefined.
[[noreturn]] void fault(Site where, const char* format, ...) __attribute__((format(printf, 2, 3)));

// Shared memory as a T of `bytes`.
inline unsigned char* sharedMemory(size_t bytes, Site where) {
  if (bytes > state.sharedBytes) [[unlikely]]
    fault(where, "shared memory seen as %zu bytes, of which the launch gave %zu", bytes, state.sharedBytes);
  return state.shared;
}

// ---- Launches

constexpr int maxArguments = 64;

// What decides whether a launch does anything: the kernel's first parameter, see native/cuda/nvcc/primitives.cuh.
struct Gate {
  const int32_t* predicate;
  const Fault* fault;
  int32_t launch;
};

// A launch as it is put on a stream. The arguments are the kernel's parameters, gate first.
struct Launch {
  const char* name;
  LaunchGrid grid;
  int threads;
  Gate gate;
  void (*run)(void* const* arguments);  // by one thread of the grid
  void* const* arguments;
  const size_t* argumentBytes;
  int argumentCount;
};

// Runs the launch, or has the interpreter run it. False: it failed, and lastReport() says how.
bool execute(const Launch& launch);

// How threads, blocks, streams and nodes of a graph take turns.
enum class Order { forward, reverse, random };
Order order();
// forward, reverse, random or random:<seed>; as HADAL_SIM_ORDER, which holds until this is called. False: none of them.
bool setOrder(const char* text);
// For turns of others than threads: a number below `count`.
uint32_t draw(uint32_t count);

// What went wrong last, and no report then.
void setReport(const char* text);
const char* takeReport();

}  // namespace sim
}  // namespace hadal
