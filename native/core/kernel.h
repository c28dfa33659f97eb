// What a kernel is: a name, params described once, the buffers it touches, a function.
//
// native/ops/<family>.h holds the contract (params struct, field list, buffer list), free of any device.
// A backend fulfils it with HADAL_KERNEL(contract, run, workspace). Entries lie in a linker section and are
// constant-initialised, so that no code compiled for AVX-512 runs on a machine without it merely by being loaded.
// For the same reason contracts live in an unnamed namespace and helpers are forced inline: a shared (weak) symbol
// compiled for AVX-512 could be the copy the linker keeps for everyone.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>

#include "core/dtype.h"
#include "core/process-group.h"

#define HADAL_INLINE inline __attribute__((always_inline))

namespace hadal {

// ---- Params: plain structs of int64_t, double and DType; the addon exports their layout, TypeScript packs by name.

enum class FieldType : int32_t { int64 = 0, float64 = 1, dtype = 2, bytes = 3 };

struct Field {
  const char* name;
  FieldType type;
  uint32_t offset;
  uint32_t count;  // elements of an array field, 1 otherwise
};

template <class T>
struct FieldTypeOf;
template <>
struct FieldTypeOf<int64_t> {
  static constexpr FieldType type = FieldType::int64;
  static constexpr uint32_t count = 1;
};
template <>
struct FieldTypeOf<double> {
  static constexpr FieldType type = FieldType::float64;
  static constexpr uint32_t count = 1;
};
template <>
struct FieldTypeOf<DType> {
  static constexpr FieldType type = FieldType::dtype;
  static constexpr uint32_t count = 1;
};
template <class T, size_t N>
struct FieldTypeOf<T[N]> {
  static constexpr FieldType type = FieldTypeOf<T>::type;
  static constexpr uint32_t count = N;
};
template <size_t N>
struct FieldTypeOf<uint8_t[N]> {
  static constexpr FieldType type = FieldType::bytes;
  static constexpr uint32_t count = N;
};

// HADAL_FOR_EACH(macro, first, a, b, …) is macro(first, a) macro(first, b) …
#define HADAL_PARENS ()
#define HADAL_EXPAND(...) HADAL_EXPAND3(HADAL_EXPAND3(HADAL_EXPAND3(__VA_ARGS__)))
#define HADAL_EXPAND3(...) HADAL_EXPAND2(HADAL_EXPAND2(HADAL_EXPAND2(__VA_ARGS__)))
#define HADAL_EXPAND2(...) HADAL_EXPAND1(HADAL_EXPAND1(HADAL_EXPAND1(__VA_ARGS__)))
#define HADAL_EXPAND1(...) __VA_ARGS__
#define HADAL_FOR_EACH(macro, first, ...) __VA_OPT__(HADAL_EXPAND(HADAL_FOR_EACH_STEP(macro, first, __VA_ARGS__)))
#define HADAL_FOR_EACH_STEP(macro, first, item, ...) \
  macro(first, item) __VA_OPT__(HADAL_FOR_EACH_AGAIN HADAL_PARENS(macro, first, __VA_ARGS__))
#define HADAL_FOR_EACH_AGAIN() HADAL_FOR_EACH_STEP

#define HADAL_FIELD(P, member)                                                                                         \
  ::hadal::Field{#member, ::hadal::FieldTypeOf<decltype(P::member)>::type, static_cast<uint32_t>(offsetof(P, member)), \
                 ::hadal::FieldTypeOf<decltype(P::member)>::count},

// ---- Buffers

enum class Access : int32_t { in, out, inout };

struct Buffer {
  const char* name;
  int64_t bytes;  // the least a buffer must hold; 0 allows an absent (null) one
  Access access;
  bool isOptional = false;
};

struct BufferList {
  static constexpr int maxBuffers = 136;
  Buffer items[maxBuffers];
  int count = 0;

  HADAL_INLINE BufferList& in(const char* name, int64_t bytes) { return add({name, bytes, Access::in}); }
  HADAL_INLINE BufferList& out(const char* name, int64_t bytes) { return add({name, bytes, Access::out}); }
  HADAL_INLINE BufferList& inout(const char* name, int64_t bytes) { return add({name, bytes, Access::inout}); }
  // A buffer the kernel can do without: the pointer may be null.
  HADAL_INLINE BufferList& optional(const char* name, int64_t bytes, Access access = Access::in) {
    return add({name, bytes, access, true});
  }

 private:
  HADAL_INLINE BufferList& add(Buffer buffer) {
    if (count < maxBuffers) items[count++] = buffer;
    return *this;
  }
};

// ---- Contract and entry

struct Contract {
  const char* name;
  const Field* fields;
  int fieldCount;
  size_t paramsBytes;
  BufferList (*buffers)(const void* params);
  // Null when the params make sense, else what is wrong with them. Runs before anything else trusts them.
  const char* (*check)(const void* params);
};

// Declares `constexpr Contract <symbol>`: the kernel's name, its params struct (with `BufferList buffers() const`
// and `const char* check() const`) and the struct's fields.
#define HADAL_CONTRACT(symbol, kernelName, P, ...)                                                            \
  static constexpr ::hadal::Field symbol##Fields[] = {HADAL_FOR_EACH(HADAL_FIELD, P, __VA_ARGS__)};           \
  static constexpr ::hadal::Contract symbol {                                                                 \
    kernelName, symbol##Fields, static_cast<int>(sizeof(symbol##Fields) / sizeof(::hadal::Field)), sizeof(P), \
        [](const void* params) -> ::hadal::BufferList { return static_cast<const P*>(params)->buffers(); },   \
        [](const void* params) -> const char* { return static_cast<const P*>(params)->check(); }              \
  }

// What device code reports of bad data: the first report of a step stands.
struct Fault {
  int32_t isRaised;     // 0, or 1 + the launch that reported it
  int32_t instruction;  // which one of the program reported it
  int64_t numbers[3];   // what the kernel's explain() makes a message of
};

// What a kernel may use beside its buffers. A kernel that finds bad data (an id out of range) calls fail() and returns
// or goes on harmlessly; the executor ends the step with the message.
struct RunContext {
  void* workspace = nullptr;
  int64_t workspaceBytes = 0;
  int threads = 1;
  ProcessGroups groups{};
  // On a GPU: where work is put; an int32 there that says 0 where the instruction is to do nothing, or null; where device code
  // reports bad data, and as which instruction; how many multiprocessors there are.
  void* stream = nullptr;
  const int32_t* predicate = nullptr;
  Fault* fault = nullptr;
  int32_t instruction = 0;
  int32_t launches = 0;  // of the instruction, so far
  int32_t processors = 1;
  // Of the next launch, among those of a step.
  int32_t nextLaunch() const { return instruction * 4096 + launches % 4096; }
  char message[512] = {};
  std::atomic<bool> failed{false};

  template <class... Args>
  HADAL_INLINE void fail(const char* format, Args... args) {
    if (!failed.exchange(true)) std::snprintf(message, sizeof(message), format, args...);
  }
};

enum class Isa : int32_t { portable = 0, avx2 = 1, avx512 = 2, avx512bf16 = 3, cuda = 4 };

struct KernelEntry {
  const Contract* contract;
  Isa isa;
  void (*run)(const void* params, void* const* buffers, RunContext& context);
  int64_t (*workspaceBytes)(const void* params, int threads);  // may be null
  // Fails with the message for what device code reported; null where it reports nothing.
  void (*explain)(const void* params, const Fault& fault, RunContext& context);
};

}  // namespace hadal

// Fulfils a contract in a backend. `run` is void(const P&, void* const* buffers, RunContext&), `workspace` is
// nullptr or int64_t(const P&, int threads). Entries are collected by the linker (section "hadal_kernels").
#define HADAL_KERNEL_WITH_WORKSPACE(symbol, P, runFunction, workspaceFunction)           \
  __attribute__((section("hadal_kernels"), used,                                         \
                 aligned(8))) static constinit const ::hadal::KernelEntry symbol##Entry{ \
      &symbol, ::hadal::Isa::HADAL_ISA,                                                  \
      [](const void* params, void* const* buffers, ::hadal::RunContext& context) {       \
        runFunction(*static_cast<const P*>(params), buffers, context);                   \
      },                                                                                 \
      [](const void* params, int threads) -> int64_t {                                   \
        return workspaceFunction(*static_cast<const P*>(params), threads);               \
      },                                                                                 \
      nullptr};
#define HADAL_KERNEL(symbol, P, runFunction)                                             \
  __attribute__((section("hadal_kernels"), used,                                         \
                 aligned(8))) static constinit const ::hadal::KernelEntry symbol##Entry{ \
      &symbol, ::hadal::Isa::HADAL_ISA,                                                  \
      [](const void* params, void* const* buffers, ::hadal::RunContext& context) {       \
        runFunction(*static_cast<const P*>(params), buffers, context);                   \
      },                                                                                 \
      nullptr, nullptr};
// A kernel on a GPU whose device code may report a fault: `explain` is void(const P&, const Fault&, RunContext&).
#define HADAL_KERNEL_WITH_FAULTS(symbol, P, runFunction, workspaceFunction, explainFunction) \
  __attribute__((section("hadal_kernels"), used,                                             \
                 aligned(8))) static constinit const ::hadal::KernelEntry symbol##Entry{     \
      &symbol, ::hadal::Isa::HADAL_ISA,                                                      \
      [](const void* params, void* const* buffers, ::hadal::RunContext& context) {           \
        runFunction(*static_cast<const P*>(params), buffers, context);                       \
      },                                                                                     \
      [](const void* params, int threads) -> int64_t {                                       \
        return workspaceFunction(*static_cast<const P*>(params), threads);                   \
      },                                                                                     \
      [](const void* params, const ::hadal::Fault& fault, ::hadal::RunContext& context) {    \
        explainFunction(*static_cast<const P*>(params), fault, context);                     \
      }};
