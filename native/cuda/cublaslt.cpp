#include "cuda/cublaslt.h"

#include <dlfcn.h>
#include <glob.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "cublaslt-places.h"
#include "cuda/cublaslt-api.h"
#include "runtime.h"

namespace hadal {
namespace cuda {
namespace cublaslt {

namespace {

// ---- Descriptors

// cuBLASLt takes matrices as columns: it is asked for cᵀ = op(b)ᵀ·op(a)ᵀ, b being its first factor. A row of ours is a column of its, so
// that memory and strides are the same, and what is transposed here is transposed there.
struct Plan {
  MatmulDesc* desc = nullptr;
  MatrixLayout *first = nullptr, *second = nullptr, *result = nullptr;
  Algorithm algorithm{};
  size_t workspaceBytes = 0;
  bool isUsable = false;
};

DataType typeOf(DType dtype) {
  return dtype == DType::bf16 ? DataType::bf16 : dtype == DType::fp16 ? DataType::fp16 : DataType::fp32;
}

// As NVIDIA advises for Hopper; older cards need less. The stand-in needs none.
constexpr int64_t bytesOfWorkspace = int64_t{32} << 20;

template <class T>
bool set(const Api& api, MatmulDesc* desc, DescAttribute attribute, const T& value) {
  return api.descSet(desc, attribute, &value, sizeof(value)) == Status::success;
}
template <class T>
bool set(const Api& api, MatrixLayout* layout, LayoutAttribute attribute, const T& value) {
  return api.layoutSet(layout, attribute, &value, sizeof(value)) == Status::success;
}
template <class T>
bool set(const Api& api, Preference* preference, PreferenceAttribute attribute, const T& value) {
  return api.preferenceSet(preference, attribute, &value, sizeof(value)) == Status::success;
}

bool makeLayout(const Api& api, MatrixLayout*& layout, DType dtype, int64_t rows, int64_t columns, int64_t stride,
                int64_t batch) {
  return api.layoutCreate(&layout, typeOf(dtype), rows, columns, stride) == Status::success &&
         set(api, layout, LayoutAttribute::batchCount, static_cast<int32_t>(batch)) &&
         set(api, layout, LayoutAttribute::stridedBatchOffset, stride * columns);
}

bool describe(const Api& api, Plan& plan, const Product& p) {
  const auto compute = p.dtypeA == DType::fp32 ? ComputeType::fp32Pedantic : ComputeType::fp32;
  const auto operation = [](int64_t isTransposed) { return isTransposed ? Operation::transpose : Operation::none; };
  return api.descCreate(&plan.desc, compute, DataType::fp32) == Status::success &&
         set(api, plan.desc, DescAttribute::transA, operation(p.transposeB)) &&
         set(api, plan.desc, DescAttribute::transB, operation(p.transposeA)) &&
         (!p.bias || (set(api, plan.desc, DescAttribute::epilogue, Epilogue::bias) &&
                      set(api, plan.desc, DescAttribute::biasPointer, p.bias))) &&
         makeLayout(api, plan.first, p.dtypeB, p.transposeB ? p.k : p.n, p.transposeB ? p.n : p.k, p.rowB(), p.batch) &&
         makeLayout(api, plan.second, p.dtypeA, p.transposeA ? p.m : p.k, p.transposeA ? p.k : p.m, p.rowA(),
                    p.batch) &&
         makeLayout(api, plan.result, p.dtypeC, p.n, p.m, p.rowC(), p.batch);
}

void destroy(const Api& api, Plan& plan) {
  if (plan.desc) api.descDestroy(plan.desc);
  for (MatrixLayout* layout : {plan.first, plan.second, plan.result})
    if (layout) api.layoutDestroy(layout);
}

bool makePreference(const Api& api, Preference*& preference, int64_t alignment) {
  bool isSet = api.preferenceCreate(&preference) == Status::success &&
               set(api, preference, PreferenceAttribute::maxWorkspaceBytes, uint64_t{bytesOfWorkspace}) &&
               set(api, preference, PreferenceAttribute::reductionSchemeMask, deterministicReductions);
  for (const auto attribute : {PreferenceAttribute::minAlignmentA, PreferenceAttribute::minAlignmentB,
                               PreferenceAttribute::minAlignmentC, PreferenceAttribute::minAlignmentD})
    isSet = isSet && set(api, preference, attribute, static_cast<uint32_t>(alignment));
  return isSet;
}

// Whether the library takes descriptors as they are made here: they need no GPU, and it rejects wrong sizes and unknown names.
bool takesDescriptors(const Api& api) {
  Plan plan;
  const float bias = 0;
  const bool isTaken = describe(api, plan,
                                {.batch = 2,
                                 .m = 8,
                                 .n = 16,
                                 .k = 24,
                                 .transposeA = true,
                                 .transposeB = false,
                                 .dtypeA = DType::bf16,
                                 .dtypeB = DType::bf16,
                                 .dtypeC = DType::fp32,
                                 .a = nullptr,
                                 .b = nullptr,
                                 .c = nullptr,
                                 .bias = &bias});
  Preference* preference = nullptr;
  const bool isPreferred = makePreference(api, preference, 16);
  if (preference) api.preferenceDestroy(preference);
  destroy(api, plan);
  return isTaken && isPreferred;
}

// ---- Opening the library

struct Library {
  Api api;
  bool isStandIn = false;
  std::string status;

  // The library itself is opened on the simulated device only to see whether it takes descriptors.
  bool isUsable() const { return isStandIn == takesStandIn; }
};

int enqueue(Stream stream, void (*function)(void*), void* data) {
  return static_cast<int>(cudaLaunchHostFunc(static_cast<cudaStream_t>(stream), function, data));
}

// Null, and why, where the file is not a cuBLASLt to be used here.
std::optional<Library> openLibrary(const std::string& path, std::string& why) {
  void* const handle = dlopen(path.c_str(), RTLD_LAZY | RTLD_LOCAL);  // never closed: its threads may outlive us
  if (!handle) {
    why = dlerror();
    return std::nullopt;
  }
  Library library;
  const char* missing = nullptr;
#define HADAL_FIND(name, symbol, result, parameters)                                       \
  library.api.name = reinterpret_cast<decltype(library.api.name)>(dlsym(handle, #symbol)); \
  if (!library.api.name) missing = #symbol;
  HADAL_CUBLASLT_FUNCTIONS(HADAL_FIND)
#undef HADAL_FIND
  if (missing) {
    why = path + " lacks " + missing;
    return std::nullopt;
  }
  const auto setEnqueue = reinterpret_cast<SetEnqueue>(dlsym(handle, setEnqueueSymbol));
  library.isStandIn = setEnqueue != nullptr;
  if (library.isStandIn && !takesStandIn) {
    why = path + " is the stand-in for the simulated device";
    return std::nullopt;
  }
  if (setEnqueue) setEnqueue(enqueue);
  if (!takesDescriptors(library.api)) {
    why = path + " refuses descriptors as they are made for other versions";
    return std::nullopt;
  }
  const size_t version = library.api.getVersion();
  library.status = "cuBLASLt " + std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
                   std::to_string(version % 100) + " (" + path + ")";
  if (!library.isUsable()) library.status += ", whose products need a GPU";
  return library;
}

// The files that a place may stand for.
std::vector<std::string> filesAt(std::string place) {
  const size_t slash = place.find('/');
  if (place[0] == '$') {
    const char* const folder = std::getenv(place.substr(1, slash - 1).c_str());
    if (!folder || !*folder) return {};
    place = folder + place.substr(slash);
  } else if (place[0] == '@') {
    Dl_info self;
    if (dladdr(reinterpret_cast<void*>(&enqueue), &self) == 0) return {};
    const std::string file = self.dli_fname;
    place = file.substr(0, file.rfind('/')) + place.substr(slash);
  } else if (slash == std::string::npos) {
    return {place};  // dlopen looks for it
  }
  glob_t found;
  std::vector<std::string> files;
  if (glob(place.c_str(), 0, nullptr, &found) == 0) files.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  globfree(&found);
  std::reverse(files.begin(), files.end());  // newest first
  return files;
}

struct Opened {
  std::optional<Library> library;
  std::string status;
};

Opened open() {
  const char* const given = std::getenv("HADAL_CUBLASLT");
  std::string why = "not found";
  if (given && std::string(given) == "none") return {std::nullopt, "no cuBLASLt: HADAL_CUBLASLT is none"};
  if (given && *given) {
    if (auto library = openLibrary(given, why)) return {library, library->status};
    return {std::nullopt, "no cuBLASLt: HADAL_CUBLASLT: " + why};
  }
  for (const char* place : places)
    for (const std::string& file : filesAt(place))
      if (auto library = openLibrary(file, why)) return {library, library->status};
  return {std::nullopt, "no cuBLASLt: " + why +
                            "; products are by hadal's own kernels (install nvidia-cublas, or set HADAL_CUBLASLT)"};
}

const Opened& opened() {
  static const Opened once = open();
  return once;
}

// ---- Products

// Everything that an algorithm is chosen by.
struct Shape {
  std::array<int64_t, 15> numbers;
  bool operator<(const Shape& other) const { return numbers < other.numbers; }
};

bool takes(const Product& p) {
  if (p.dtypeA != p.dtypeB || (p.dtypeC != p.dtypeA && p.dtypeC != DType::fp32)) return false;
  if ((p.bias || p.addend) && p.dtypeAddend != p.dtypeC) return false;
  for (int64_t size : {p.batch, p.m, p.n, p.k})
    if (size < 1 || size > INT32_MAX) return false;
  return static_cast<double>(p.batch) * p.m * p.n * p.k >= leastMultiplications;
}

// The largest power of two up to 16 that all addresses are multiples of: no algorithm asks for more.
int64_t alignmentOf(std::initializer_list<const void*> addresses) {
  uintptr_t bits = 16;
  for (const void* address : addresses) bits |= reinterpret_cast<uintptr_t>(address);
  return static_cast<int64_t>(bits & -bits);
}

class Planner {
 public:
  // All of it under one lock: a plan's bias is set before each product.
  bool multiply(const Library& library, const Product& p, void* workspace, Stream stream) {
    const std::lock_guard lock(mutex_);
    int device = 0;
    if (cudaGetDevice(&device) != cudaSuccess) return false;
    const Api& api = library.api;
    const int64_t alignment = alignmentOf({p.a, p.b, p.c, p.bias, p.addend});
    const Shape shape{{device, p.batch, p.m, p.n, p.k, p.transposeA, p.transposeB, static_cast<int64_t>(p.dtypeA),
                       static_cast<int64_t>(p.dtypeC), p.bias != nullptr, p.addend != nullptr, alignment, p.rowA(),
                       p.rowB(), p.rowC()}};
    Plan& plan = planOf(api, shape, p, alignment, device);
    if (!plan.isUsable || (p.bias && !set(api, plan.desc, DescAttribute::biasPointer, p.bias))) return false;
    const float alpha = 1, beta = p.addend ? 1 : 0;
    const void* const added = p.addend ? p.addend : p.c;
    plan.isUsable =
        api.matmul(contexts_[device], plan.desc, &alpha, p.b, plan.first, p.a, plan.second, &beta, added, plan.result,
                   p.c, plan.result, &plan.algorithm, workspace, plan.workspaceBytes, stream) == Status::success;
    return plan.isUsable;
  }

 private:
  static bool choose(const Api& api, Context* context, Plan& plan, int64_t alignment) {
    Preference* preference = nullptr;
    HeuristicResult result{};
    int count = 0;
    const bool isChosen = makePreference(api, preference, alignment) &&
                          api.getHeuristic(context, plan.desc, plan.first, plan.second, plan.result, plan.result,
                                           preference, 1, &result, &count) == Status::success &&
                          count == 1 && result.state == Status::success;
    if (preference) api.preferenceDestroy(preference);
    plan.algorithm = result.algorithm;
    plan.workspaceBytes = result.workspaceBytes;
    return isChosen;
  }

  // Products that the library refuses are remembered, too.
  Plan& planOf(const Api& api, const Shape& shape, const Product& p, int64_t alignment, int device) {
    if (const auto found = plans_.find(shape); found != plans_.end()) return found->second;
    if (plans_.size() >= mostPlans) {
      for (auto& [_, plan] : plans_) destroy(api, plan);
      plans_.clear();
    }
    Plan& plan = plans_[shape];
    Context*& context = contexts_[device];
    plan.isUsable = (context || api.create(&context) == Status::success) && describe(api, plan, p) &&
                    choose(api, context, plan, alignment);
    return plan;
  }

  // A training step has some dozens of shapes.
  static constexpr size_t mostPlans = 1024;
  std::mutex mutex_;
  std::map<Shape, Plan> plans_;
  std::map<int, Context*> contexts_;  // a context is of one device, and lasts as long as the process
};

}  // namespace

bool multiply(const Product& product, void* workspace, RunContext& context) {
  static Planner& planner = *new Planner;  // outlives whatever still runs when the process ends
  const auto& library = opened().library;
  if (!library || !library->isUsable() || context.predicate || !takes(product)) return false;
  return planner.multiply(*library, product, workspace, context.stream);
}

int64_t workspaceBytes() {
  const auto& library = opened().library;
  return library && library->isUsable() && !library->isStandIn ? bytesOfWorkspace : 0;
}

const char* status() { return opened().status.c_str(); }

}  // namespace cublaslt
}  // namespace cuda
}  // namespace hadal
