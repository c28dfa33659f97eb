#include "core/program.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace hadal {

namespace {

// Reads whole numbers from the encoded words, refusing what is not one.
class Reader {
 public:
  Reader(const double* words, size_t count) : words_(words), count_(count) {}
  bool done() const { return at_ == count_; }
  int64_t next(int64_t least, int64_t most, const char* what) {
    if (at_ >= count_) throw std::runtime_error(std::string("program ends inside an instruction, at ") + what);
    const double word = words_[at_++];
    if (!(word >= static_cast<double>(least) && word <= static_cast<double>(most)) || word != std::floor(word))
      throw std::runtime_error(std::string("program has an impossible ") + what);
    return static_cast<int64_t>(word);
  }
  // Kernels may use aligned vectors.
  int64_t nextAligned(const char* what) {
    const int64_t offset = next(0, int64_t{1} << 52, what);
    if (offset % 64) throw std::runtime_error(std::string("program has an unaligned ") + what);
    return offset;
  }
  BufferRef ref() {
    BufferRef ref;
    ref.space = static_cast<Space>(next(0, 4, "buffer space"));
    ref.index = static_cast<int32_t>(next(0, 1 << 20, "binding index"));
    ref.offset = nextAligned("buffer offset");
    ref.bytes = next(0, int64_t{1} << 52, "buffer size");
    return ref;
  }

 private:
  const double* words_;
  size_t count_, at_ = 0;
};

}  // namespace

Program::Program(const double* words, size_t wordCount, std::vector<uint8_t> params, std::vector<uint8_t> constants,
                 const std::vector<std::string>& kernelNames, int threads, FindKernel find)
    : params_(std::move(params)), constants_(std::move(constants)), threads_(threads), find_(find) {
  Reader reader(words, wordCount);
  while (!reader.done()) {
    Instruction instruction{};
    const auto name = static_cast<size_t>(reader.next(0, static_cast<int64_t>(kernelNames.size()) - 1, "kernel"));
    instruction.kernel = find(kernelNames[name]);
    if (!instruction.kernel) throw std::runtime_error("no kernel '" + kernelNames[name] + "' in this build");
    const int64_t paramsAt = reader.next(0, static_cast<int64_t>(params_.size()), "params offset");
    const auto paramsBytes = static_cast<int64_t>(instruction.kernel->contract->paramsBytes);
    if (paramsAt % 8 || paramsAt + paramsBytes > static_cast<int64_t>(params_.size()))
      throw std::runtime_error("params of '" + kernelNames[name] + "' lie outside the program");
    instruction.params = params_.data() + paramsAt;
    instruction.queue = static_cast<QueueId>(reader.next(0, 2, "queue"));
    instruction.isTimed = reader.next(0, 1, "timing") != 0;
    instruction.workspaceOffset = reader.nextAligned("workspace offset");
    instruction.workspaceBytes = reader.next(0, int64_t{1} << 52, "workspace size");
    arenaBytes_ = std::max(arenaBytes_, instruction.workspaceOffset + instruction.workspaceBytes);
    instruction.predicate = reader.ref();
    instruction.predicated = instruction.predicate.space != Space::none;
    noteUse(instruction.predicate);
    instruction.firstBuffer = static_cast<uint32_t>(buffers_.size());
    instruction.bufferCount = static_cast<uint32_t>(reader.next(0, BufferList::maxBuffers, "buffer count"));
    for (uint32_t i = 0; i < instruction.bufferCount; i++) {
      buffers_.push_back(reader.ref());
      noteUse(buffers_.back());
    }
    instruction.firstWait = static_cast<uint32_t>(waits_.size());
    instruction.waitCount = static_cast<uint32_t>(reader.next(0, 1 << 20, "wait count"));
    for (uint32_t i = 0; i < instruction.waitCount; i++)
      waits_.push_back(static_cast<uint32_t>(
          reader.next(0, static_cast<int64_t>(instructions_.size()) - 1, "instruction to wait for")));
    checkInstruction(instruction, instructions_.size());
    instructions_.push_back(instruction);
  }
}

void Program::checkInstruction(const Instruction& instruction, size_t at) const {
  const Contract& contract = *instruction.kernel->contract;
  const auto refuse = [&](const std::string& why) {
    throw std::runtime_error("instruction " + std::to_string(at) + " '" + contract.name + "': " + why);
  };
  if (const char* wrong = contract.check(instruction.params)) refuse(wrong);
  if (instruction.predicated && instruction.predicate.bytes < 4) refuse("expected a predicate of 4 bytes");
  const int threads = instruction.queue == QueueId::compute ? threads_ : 1;
  const auto workspaceBytes = instruction.kernel->workspaceBytes;
  if (workspaceBytes && instruction.workspaceBytes < workspaceBytes(instruction.params, threads))
    refuse("the workspace is too small for " + std::to_string(threads) + " threads");
  const BufferList list = contract.buffers(instruction.params);
  if (static_cast<int>(instruction.bufferCount) != list.count)
    refuse("expected " + std::to_string(list.count) + " buffers, got " + std::to_string(instruction.bufferCount));
  for (int i = 0; i < list.count; i++) {
    const BufferRef& ref = buffers_[instruction.firstBuffer + static_cast<uint32_t>(i)];
    const bool isAbsent = ref.space == Space::none;
    if (isAbsent ? list.items[i].bytes > 0 && !list.items[i].isOptional : ref.bytes < list.items[i].bytes)
      refuse(std::string("buffer ") + list.items[i].name + " expected at least " + std::to_string(list.items[i].bytes) +
             " bytes, got " + std::to_string(ref.bytes));
    if (ref.space == Space::constant && list.items[i].access != Access::in)
      refuse(std::string("buffer ") + list.items[i].name + " would write a constant");
  }
}

void Program::noteUse(const BufferRef& ref) {
  const int64_t end = ref.offset + ref.bytes;
  const auto least = [&](std::vector<int64_t>& bytes) {
    if (bytes.size() <= static_cast<size_t>(ref.index)) bytes.resize(static_cast<size_t>(ref.index) + 1, 0);
    bytes[static_cast<size_t>(ref.index)] = std::max(bytes[static_cast<size_t>(ref.index)], end);
  };
  switch (ref.space) {
    case Space::none:
      return;
    case Space::arena:
      arenaBytes_ = std::max(arenaBytes_, end);
      return;
    case Space::slot:
      return least(slotBytes_);
    case Space::input:
      return least(inputBytes_);
    case Space::constant:
      if (end > static_cast<int64_t>(constants_.size()))
        throw std::runtime_error("a constant lies outside the program");
  }
}

std::string Program::checkBindings(const Bindings& bindings) const {
  const auto tooSmall = [](const char* what, size_t i, int64_t expected, int64_t got) {
    return std::string(what) + " " + std::to_string(i) + " expected at least " + std::to_string(expected) +
           " bytes, got " + std::to_string(got);
  };
  if (bindings.slots.size() < slotBytes_.size()) return "too few slots are bound";
  if (bindings.inputs.size() < inputBytes_.size()) return "too few inputs are bound";
  for (size_t i = 0; i < slotBytes_.size(); i++)
    if (bindings.slots[i]->bytes() < slotBytes_[i])
      return tooSmall("slot", i, slotBytes_[i], bindings.slots[i]->bytes());
  for (size_t i = 0; i < inputBytes_.size(); i++)
    if (bindings.inputs[i].bytes < inputBytes_[i])
      return tooSmall("input", i, inputBytes_[i], bindings.inputs[i].bytes);
  return {};
}

void* Program::resolve(const BufferRef& ref, const Bindings& bindings, void* arena, const void* constants) const {
  const auto at = [&](const void* base) { return static_cast<char*>(const_cast<void*>(base)) + ref.offset; };
  switch (ref.space) {
    case Space::arena:
      return at(arena);
    case Space::slot:
      return at(bindings.slots[static_cast<size_t>(ref.index)]->data());
    case Space::input:
      return at(bindings.inputs[static_cast<size_t>(ref.index)].data);
    case Space::constant:
      return at(constants ? constants : constants_.data());
    case Space::none:
      return nullptr;
  }
  return nullptr;
}

}  // namespace hadal
