// Runs recorded calls of kernels again, each buffer in an allocation of its own that is exactly as large, and compares what
// they write with what was recorded, bit for bit (any NaN is as good as another).
//   hadal-sim-replay-<sanitizer> <order>[,<order>…] <file>…
// Prints a JSON object a kernel and dtype: {"kernel", "dtype", "cases", "failed"}, and what failed on stderr.
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "runtime.h"
#include "sim/executor.h"
#include "sim/replay/call.h"

extern "C" const hadal::KernelEntry __start_hadal_kernels[] __attribute__((visibility("hidden")));
extern "C" const hadal::KernelEntry __stop_hadal_kernels[] __attribute__((visibility("hidden")));

// Where a sanitizer ends the process, it says which call that was.
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());

namespace {

using namespace hadal;
using hadal::sim::RecordedBuffer;
using hadal::sim::RecordedCall;

const KernelEntry* findKernel(std::string_view name) {
  for (const KernelEntry* entry = __start_hadal_kernels; entry != __stop_hadal_kernels; entry++)
    if (entry->contract->name == name) return entry;
  return nullptr;
}

std::string current;
void sayCurrent() { std::fprintf(stderr, "in %s\n", current.c_str()); }

DType dtypeOf(const Contract& contract, const RecordedCall& call) {
  for (int i = 0; i < contract.fieldCount; i++) {
    const Field& field = contract.fields[i];
    if (field.type != FieldType::dtype) continue;
    DType dtype;
    std::memcpy(&dtype, call.params.data() + field.offset, sizeof(dtype));
    return dtype;
  }
  return DType::fp32;
}
const char* nameOf(DType dtype) {
  constexpr const char* names[] = {"fp32", "bf16", "fp16", "int32", "uint8"};
  return names[static_cast<int>(dtype)];
}

std::string describe(const Contract& contract, const RecordedCall& call) {
  std::string text = call.kernel;
  for (int i = 0; i < contract.fieldCount; i++) {
    const Field& field = contract.fields[i];
    const char* const at = call.params.data() + field.offset;
    text += std::string(" ") + field.name + "=";
    if (field.type == FieldType::int64) {
      int64_t value;
      std::memcpy(&value, at, 8);
      text += std::to_string(value);
    } else if (field.type == FieldType::float64) {
      double value;
      std::memcpy(&value, at, 8);
      text += std::to_string(value);
    } else if (field.type == FieldType::dtype) {
      DType value;
      std::memcpy(&value, at, sizeof(value));
      text += nameOf(value);
    } else {
      text += "…";
    }
    if (field.count > 1) text += "…";
  }
  return text;
}

// A number of 2 or 4 bytes may be another NaN than recorded.
bool isSame(const std::vector<char>& expected, const char* got, size_t& at) {
  if (std::memcmp(expected.data(), got, expected.size()) == 0) return true;
  const auto isNan = [](uint32_t bits, uint32_t infinity, uint32_t mask) { return (bits & mask) > infinity; };
  for (at = 0; at < expected.size(); at++) {
    if (expected[at] == got[at]) continue;
    uint32_t a = 0, b = 0;
    if (at / 4 * 4 + 4 <= expected.size()) {
      std::memcpy(&a, expected.data() + at / 4 * 4, 4);
      std::memcpy(&b, got + at / 4 * 4, 4);
      if (isNan(a, 0x7f800000, 0x7fffffff) && isNan(b, 0x7f800000, 0x7fffffff)) continue;
    }
    a = b = 0;
    std::memcpy(&a, expected.data() + at / 2 * 2, 2);
    std::memcpy(&b, got + at / 2 * 2, 2);
    if (isNan(a, 0x7c00, 0x7fff) && isNan(b, 0x7c00, 0x7fff)) continue;
    return false;
  }
  return true;
}

void must(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\nin %s\n", cudaGetErrorName(error), hadalSimReport(), current.c_str());
  std::exit(1);
}

struct Bench {
  cudaStream_t stream = nullptr;
  Fault* fault = nullptr;

  Bench() {
    must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    must(cudaMalloc(reinterpret_cast<void**>(&fault), sizeof(Fault)));
  }

  // Empty, or what is wrong.
  std::string run(const KernelEntry& kernel, const RecordedCall& call) {
    std::vector<void*> memory(call.buffers.size(), nullptr), buffers(BufferList::maxBuffers, nullptr);
    for (size_t i = 0; i < call.buffers.size(); i++) {
      const RecordedBuffer& b = call.buffers[i];
      if (!b.isPresent) continue;
      if (b.sameAs >= 0) {
        buffers[i] = memory[b.sameAs];
        continue;
      }
      const auto bytes = static_cast<size_t>(b.bytes > 0 ? b.bytes : 1);  // an empty buffer has an address, too
      must(b.isPinned ? cudaMallocHost(&memory[i], bytes) : cudaMalloc(&memory[i], bytes));
      if (b.bytes > 0) must(cudaMemcpy(memory[i], b.before.data(), b.before.size(), cudaMemcpyDefault));
      buffers[i] = memory[i];
    }
    must(cudaMemset(fault, 0, sizeof(Fault)));
    RunContext context;
    context.stream = stream;
    context.fault = fault;
    context.threads = context.processors = call.processors;
    context.workspaceBytes = call.workspaceBytes;
    if (call.workspaceBytes) must(cudaMalloc(&context.workspace, static_cast<size_t>(call.workspaceBytes)));
    must(cudaDeviceSynchronize());
    kernel.run(call.params.data(), buffers.data(), context);
    const cudaError_t error = cudaStreamSynchronize(stream);
    std::string wrong = context.failed         ? context.message
                        : error != cudaSuccess ? std::string(cudaGetErrorName(error)) + ": " + hadalSimReport()
                        : (fault->isRaised != 0) != call.raisesFault ? "a fault that was not recorded, or none"
                                                                     : "";
    for (size_t i = 0; i < call.buffers.size() && wrong.empty(); i++) {
      const RecordedBuffer& b = call.buffers[i];
      size_t at;
      if (b.access != Access::in && buffers[i] && !isSame(b.after, static_cast<char*>(buffers[i]), at))
        wrong =
            "buffer " + std::to_string(i) + " differs at byte " + std::to_string(at) + " of " + std::to_string(b.bytes);
    }
    for (size_t i = 0; i < memory.size(); i++)
      if (memory[i]) must(call.buffers[i].isPinned ? cudaFreeHost(memory[i]) : cudaFree(memory[i]));
    if (context.workspace) must(cudaFree(context.workspace));
    return wrong;
  }
};

}  // namespace

int main(int count, char** arguments) {
  if (count < 3) {
    std::fprintf(stderr, "expected orders of threads and files\n");
    return 2;
  }
  setenv("HADAL_CUBLASLT", "none", 1);  // a stand-in's products are no kernels
  if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(sayCurrent);
  std::vector<std::string> orders;
  for (std::string_view rest = arguments[1]; !rest.empty();) {
    const size_t comma = rest.find(',');
    orders.emplace_back(rest.substr(0, comma));
    rest = comma == rest.npos ? std::string_view() : rest.substr(comma + 1);
  }
  struct Count {
    int cases = 0, failed = 0;
  };
  std::map<std::pair<std::string, std::string>, Count> counts;
  Bench bench;
  bool isWhole = true;
  for (int f = 2; f < count; f++) {
    FILE* const file = std::fopen(arguments[f], "rb");
    if (!file) continue;
    for (RecordedCall call; call.read(file);) {
      const KernelEntry* const kernel = findKernel(call.kernel);
      if (!kernel || kernel->contract->paramsBytes != call.params.size()) {
        std::fprintf(stderr, "no kernel %s with these params\n", call.kernel.c_str());
        isWhole = false;
        continue;
      }
      Count& c = counts[{call.kernel, nameOf(dtypeOf(*kernel->contract, call))}];
      for (const std::string& order : orders) {
        current = describe(*kernel->contract, call) + " in " + order + " order";
        if (!sim::setOrder(order.c_str())) return 2;
        const std::string wrong = bench.run(*kernel, call);
        c.cases++;
        if (wrong.empty()) continue;
        c.failed++;
        std::fprintf(stderr, "%s: %s\n", current.c_str(), wrong.c_str());
      }
    }
    std::fclose(file);
  }
  int failed = 0;
  for (const auto& [key, c] : counts) {
    std::printf("{\"kernel\":\"%s\",\"dtype\":\"%s\",\"cases\":%d,\"failed\":%d}\n", key.first.c_str(),
                key.second.c_str(), c.cases, c.failed);
    failed += c.failed;
  }
  return failed == 0 && isWhole ? 0 : 1;
}
