// Runs launches: block after block, the warps of a block in turns. Lanes of a warp that stand at the same instruction
// go together, those furthest behind first; lanes wait at barriers and at instructions that gather lanes. When nothing
// can go on the launch fails with what waits where.
#pragma once
#include "ptx/kernel.h"

namespace hadal {
namespace ptx {

struct Argument {
  const void* data;
  size_t bytes;
};

class Machine {
 public:
  // Throws an Error that names kernel, line and instruction.
  void run(Kernel& kernel, Dim3 grid, Dim3 threads, size_t dynamicSharedBytes, const std::vector<Argument>& arguments);
  uint64_t executed() const { return total; }  // instructions of threads, over all launches

 private:
  enum class Pause { finished, waits, sliced };

  void runBlock(Kernel& kernel);
  void beginWarp(const Kernel& kernel, Warp& warp, uint32_t id, size_t dynamicSharedBytes);
  Pause runWarp(Kernel& kernel, Warp& warp);
  bool arrive(Kernel& kernel, Warp& warp, Group& group, const Instruction& i);
  void releaseBarriers();
  bool gather(Warp& warp, Group& group, const Instruction& i);
  bool gatherWarpBarrier(Kernel& kernel, Warp& warp, Group& group, const Instruction& i);
  void leave(Warp& warp, uint32_t mask);
  [[noreturn]] void failAt(const Kernel& kernel, const Warp& warp, uint32_t pc, int lane, const std::string& why) const;
  [[noreturn]] void failDeadlock(const Kernel& kernel) const;

  struct Barrier {
    uint32_t arrived = 0, wanted = 0;  // 0: all threads that have not exited
  };
  static constexpr int barrierCount = 16;

  Block block;
  std::vector<Warp> warps;
  Barrier barriers[barrierCount];
  uint32_t running = 0;  // threads of the block that have not exited
  uint64_t total = 0;
};

}  // namespace ptx
}  // namespace hadal
