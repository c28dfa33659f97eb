// All-reduce among processes in several boxes, each with as many: sums inside a box are cheap, and what crosses between boxes is
// what each box has summed.
//
//   reduce-scatter in the box → all-reduce of this rank's slice across the boxes → all-gather in the box
//
// With B boxes of L ranks and S bytes, 2 (B − 1) / B · S leave a box instead of a ring's 2 (B L − 1) / (B L) · S, and cross in 2 (B − 1)
// turns instead of 2 (B L − 1). Patarasu and Yuan 2009 (rings), Jia et al. 2018, arXiv:1807.11205, section 3.3 (hierarchical all-reduce).
#pragma once
#include <memory>
#include <vector>

#include "core/process-group.h"

namespace hadal {

// A group of its own: it takes the place of `all`.
class HierarchicalGroup final : public ProcessGroup {
 public:
  // all: every rank. box: those of this rank's box. across: those with this rank's place in their boxes, whose every member gives
  // the same sizes. Smaller all-reduces than leastBytes, and everything else, go over `all`.
  HierarchicalGroup(std::shared_ptr<ProcessGroup> all, std::shared_ptr<ProcessGroup> box,
                    std::shared_ptr<ProcessGroup> across, int64_t leastBytes);

  int rank() const override { return all_->rank(); }
  int size() const override { return all_->size(); }

  void allReduce(void* data, int64_t count, DType dtype, ReduceOp op, Reducer reduce) override;
  void reduceScatter(void* in, void* out, int64_t count, DType dtype, ReduceOp op, Reducer reduce) override {
    all_->reduceScatter(in, out, count, dtype, op, reduce);
  }
  void allGather(const void* in, void* out, int64_t bytes) override { all_->allGather(in, out, bytes); }
  void allToAll(const void* in, void* out, int64_t bytes) override { all_->allToAll(in, out, bytes); }
  void broadcast(void* data, int64_t bytes, int root) override { all_->broadcast(data, bytes, root); }
  void send(const void* data, int64_t bytes, int to) override { all_->send(data, bytes, to); }
  void receive(void* data, int64_t bytes, int from) override { all_->receive(data, bytes, from); }
  void barrier() override { all_->barrier(); }

  bool worksOnStreams() const override;
  void useStream(void* stream, StreamCaller caller) override;
  void enter(WireBytes replayed) override;
  void check() override;
  void settle() override;

  void abort(const std::string& reason) override;
  WireBytes wireBytes() const override;

 private:
  std::shared_ptr<ProcessGroup> all_, box_, across_;
  int64_t leastBytes_;
  bool isOnStream_ = false;
  std::vector<uint8_t> slice_;  // grows to the largest slice there was; not used on streams
};

}  // namespace hadal
