// Runs steps on a device. A backend has one executor a device (native/core/cpu-executor.h, native/cuda/executor.h).
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "core/process-group.h"
#include "core/program.h"

namespace hadal {

// A program and what it works on; a step is a list of them.
struct ScheduleEntry {
  std::shared_ptr<const Program> program;
  Bindings bindings;
};

// A block whose contents are wanted as they are now, and where they go: at least as many bytes.
struct BlockCopy {
  std::shared_ptr<Storage> from;
  void* to;
};

struct StepResult {
  bool cancelled = false;
  std::string error;  // empty when the step ended well
  int64_t failedEntry = -1, failedInstruction = -1;
  std::vector<double> instructionMs;  // when profiling, entry after entry
  double communicationMs = 0;         // that the communication queue was busy
  double exposedMs = 0;               // that the computation waited for it
  double timedMs = 0;                 // of the instructions whose time is always wanted
};

// Bytes of a device's memory.
struct DeviceMemory {
  int64_t live = 0, peak = 0;   // of this executor's blocks
  int64_t free = 0, total = 0;  // of the whole device; 0 where it has no memory of its own
};

// Tasks run one after the other on a thread of the executor's own; all that says so is to be called there.
class Executor {
 public:
  virtual ~Executor() = default;

  // What plans are made for: workspaces depend on it. Threads of a processor, multiprocessors of a GPU.
  virtual int threads() const = 0;
  // Whose kernels it runs.
  virtual Program::FindKernel backend() const = 0;
  // Zero-filled memory of the device; with `isHost`, memory of the host that its kernels can reach. From any thread.
  // Throws std::runtime_error where there is not so much.
  virtual std::shared_ptr<Storage> allocate(int64_t bytes, bool isHost) = 0;
  virtual DeviceMemory memory() const = 0;
  virtual void post(std::function<void()> task) = 0;
  // On the executor's thread.
  virtual StepResult run(const std::vector<ScheduleEntry>& schedule, const std::shared_ptr<Storage>& arena,
                         bool profile) = 0;
  // Copies between the host's memory and a block; on the executor's thread. What went wrong, or nothing.
  virtual std::string read(const Storage& block, int64_t offset, void* to, int64_t bytes) = 0;
  virtual std::string write(const Storage& block, int64_t offset, const void* from, int64_t bytes) = 0;
  // Copies blocks as they are now, while later steps may go on. `done` is called, on a thread of the executor's, after the
  // last, with what went wrong, or nothing. On the executor's thread.
  virtual void snapshot(const std::vector<BlockCopy>& copies, std::function<void(std::string)> done) = 0;
  // Has the system provide the host's memory now that copies will be written to, so that they take a tenth of the time.
  // `done` is called like that of snapshot(); the contents become undefined.
  virtual void prepare(std::vector<Memory> blocks, std::function<void()> done) = 0;
  // Gives an axis of the mesh its group; null takes it away. On the executor's thread.
  virtual void setGroup(MeshAxis axis, std::shared_ptr<ProcessGroup> group) = 0;
  // Ends the step in progress between two instructions, collectives amidst, and joins all threads. Idempotent.
  virtual void shutdown() = 0;
};

}  // namespace hadal
