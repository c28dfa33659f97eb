// A program: instructions with their params and buffer references, decoded and checked once.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/kernel.h"
#include "core/storage.h"

namespace hadal {

enum class Space : int32_t { none = 0, arena = 1, slot = 2, input = 3, constant = 4 };

struct BufferRef {
  Space space = Space::none;
  int32_t index = 0;  // which slot or input
  int64_t offset = 0;
  int64_t bytes = 0;
};

enum class QueueId : int32_t { compute = 0, communication = 1, copy = 2 };

struct Instruction {
  const KernelEntry* kernel;
  const void* params;
  uint32_t firstBuffer, bufferCount;  // into Program::buffers
  uint32_t firstWait, waitCount;      // into Program::waits: instructions on other queues that must be done
  QueueId queue;
  bool isTimed;  // its time is wanted in every run
  bool predicated;
  BufferRef predicate;
  int64_t workspaceOffset, workspaceBytes;
};

struct Memory {
  void* data = nullptr;
  int64_t bytes = 0;
};

// What one run of a program works on. Storage is shared, so that a queued step outlives its owners' dispose().
struct Bindings {
  std::vector<std::shared_ptr<Storage>> slots;
  std::vector<Memory> inputs;
};

class Program {
 public:
  // A backend's kernel of a name, or null.
  using FindKernel = const KernelEntry* (*)(std::string_view name);

  // Decodes the words that src/runtime/encode.ts writes for an executor of so many threads (workspaces depend on it), and of
  // the backend whose kernels `find` knows. Throws std::runtime_error naming the instruction at fault.
  Program(const double* words, size_t wordCount, std::vector<uint8_t> params, std::vector<uint8_t> constants,
          const std::vector<std::string>& kernelNames, int threads, FindKernel find);

  const std::vector<Instruction>& instructions() const { return instructions_; }
  const BufferRef* buffers(const Instruction& instruction) const { return &buffers_[instruction.firstBuffer]; }
  const uint32_t* waits(const Instruction& instruction) const { return waits_.data() + instruction.firstWait; }
  int64_t arenaBytes() const { return arenaBytes_; }
  int threads() const { return threads_; }
  FindKernel backend() const { return find_; }
  const std::vector<uint8_t>& constants() const { return constants_; }

  // Null when the bindings fit, else what is wrong.
  std::string checkBindings(const Bindings& bindings) const;
  // `constants`: where a device has its copy of them; null: the program's own.
  void* resolve(const BufferRef& ref, const Bindings& bindings, void* arena, const void* constants = nullptr) const;

 private:
  void checkInstruction(const Instruction& instruction, size_t at) const;
  void noteUse(const BufferRef& ref);

  std::vector<uint8_t> params_;  // 8-byte aligned blocks
  std::vector<uint8_t> constants_;
  std::vector<Instruction> instructions_;
  std::vector<BufferRef> buffers_;
  std::vector<uint32_t> waits_;
  std::vector<int64_t> slotBytes_, inputBytes_;  // the least each binding must hold
  int64_t arenaBytes_ = 0;
  int threads_;
  FindKernel find_;
};

}  // namespace hadal
