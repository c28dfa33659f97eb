// Runs steps on a GPU, or on the simulated one: instructions become launches on streams (compute, communication, copies),
// joined by events where they wait for each other. A step that is run again with the same programs and the same memory is
// captured as a CUDA graph, and replayed from then on. Nothing is read back between the first launch and the last.
#pragma once
#include <array>
#include <atomic>
#include <list>
#include <mutex>
#include <unordered_map>

#include "core/executor.h"
#include "core/task-thread.h"
#include "runtime.h"

namespace hadal {
namespace cuda {

// The kernels of this library.
const KernelEntry* findKernel(std::string_view name);

class CudaExecutor final : public Executor {
 public:
  // Throws std::runtime_error.
  explicit CudaExecutor(int device);
  ~CudaExecutor() override;

  int threads() const override { return processors_; }
  Program::FindKernel backend() const override { return &findKernel; }
  std::shared_ptr<Storage> allocate(int64_t bytes, bool isHost) override;
  DeviceMemory memory() const override;
  void post(std::function<void()> task) override;
  StepResult run(const std::vector<ScheduleEntry>& schedule, const std::shared_ptr<Storage>& arena,
                 bool profile) override;
  std::string read(const Storage& block, int64_t offset, void* to, int64_t bytes) override;
  std::string write(const Storage& block, int64_t offset, const void* from, int64_t bytes) override;
  void snapshot(const std::vector<BlockCopy>& copies, std::function<void(std::string)> done) override;
  void prepare(std::vector<Memory> blocks, std::function<void()> done) override;
  void setGroup(MeshAxis axis, std::shared_ptr<ProcessGroup> group) override;
  void shutdown() override;

 private:
  // A schedule with the memory it works on, which all may be the same next time.
  struct Step;
  struct Constants {
    std::weak_ptr<const Program> program;
    std::shared_ptr<Storage> copy;
  };
  // What an instruction's times are taken from.
  struct Span {
    cudaEvent_t begin, end;
    enum { communication, exposed, timed, instruction } kind;
    size_t at;  // place in instructionMs
  };

  Step& stepFor(const std::vector<ScheduleEntry>& schedule, void* arena);
  const void* constantsOf(const std::shared_ptr<const Program>& program);
  bool isCapturable() const;
  void capture(Step& step);
  void issue(const Step& step, StepResult& result, bool isTimed, bool profile);
  void issueEntry(const Step& step, size_t entry, StepResult& result, bool isTimed, bool profile);
  void await(cudaStream_t stream);
  void explainFault(const Step& step, StepResult& result) const;
  cudaEvent_t nextEvent(bool isTimed);
  void addTimes(StepResult& result);
  cudaStream_t streamOf(QueueId queue) const;
  void copy(void* to, const void* from, int64_t bytes, bool toHost);
  void abortGroups(const std::string& reason);
  std::array<WireBytes, meshAxes> wireBytes() const;
  void enterGroups(Step& step);

  const int device_;
  const bool usesGraphs_, awaitsEach_;
  int processors_ = 1;
  cudaStream_t compute_ = nullptr, communication_ = nullptr, copies_ = nullptr;
  cudaStream_t zeros_ = nullptr;  // new blocks are filled on it, from any thread
  Fault* fault_ = nullptr;        // on the device
  Fault* faultOnHost_ = nullptr;  // pinned, as are the two halves that copies go through
  char* staging_ = nullptr;
  std::list<Step> steps_;  // the last used first
  std::unordered_map<const Program*, Constants> constants_;
  std::vector<cudaEvent_t> events_, timingEvents_;
  size_t usedEvents_ = 0, usedTimingEvents_ = 0;
  std::vector<Span> spans_;
  std::mutex groupsMutex_;  // held where they change, and where another thread than the executor's asks for them
  std::array<std::shared_ptr<ProcessGroup>, meshAxes> groups_;
  std::atomic<int64_t> live_{0}, peak_{0};
  std::shared_ptr<int> alive_ = std::make_shared<int>();  // for blocks that outlive the executor
  std::atomic<bool> cancelled_{false};
  bool isShutDown_ = false;
  TaskThread thread_;
};

}  // namespace cuda
}  // namespace hadal
