#include "comm/hierarchical.h"

#include <utility>

namespace hadal {

HierarchicalGroup::HierarchicalGroup(std::shared_ptr<ProcessGroup> all, std::shared_ptr<ProcessGroup> box,
                                     std::shared_ptr<ProcessGroup> across, int64_t leastBytes)
    : all_(std::move(all)), box_(std::move(box)), across_(std::move(across)), leastBytes_(leastBytes) {
  if (int64_t{box_->size()} * across_->size() != all_->size())
    throw CommError("[comm] expected boxes of as many ranks each, got " + std::to_string(across_->size()) + " of " +
                    std::to_string(box_->size()) + " for " + std::to_string(all_->size()) + " ranks");
}

void HierarchicalGroup::allReduce(void* data, int64_t count, DType dtype, ReduceOp op, Reducer reduce) {
  const int64_t ranks = box_->size(), each = count / ranks, size = bytesOf(dtype);
  if (count * size < leastBytes_ || each == 0) return all_->allReduce(data, count, dtype, op, reduce);
  // On a GPU the slice stays where it is, which NCCL allows.
  void* slice = static_cast<uint8_t*>(data) + box_->rank() * each * size;
  if (!isOnStream_) {
    if (slice_.size() < size_t(each * size)) slice_.resize(size_t(each * size));
    slice = slice_.data();
  }
  box_->reduceScatter(data, slice, each, dtype, op, reduce);
  across_->allReduce(slice, each, dtype, op, reduce);
  box_->allGather(slice, data, each * size);
  // What does not divide: fewer numbers than a box has ranks.
  const int64_t rest = count - each * ranks;
  if (rest > 0) all_->allReduce(static_cast<uint8_t*>(data) + each * ranks * size, rest, dtype, op, reduce);
}

bool HierarchicalGroup::worksOnStreams() const {
  return all_->worksOnStreams() && box_->worksOnStreams() && across_->worksOnStreams();
}

void HierarchicalGroup::useStream(void* stream, StreamCaller caller) {
  isOnStream_ = stream != nullptr;
  for (const auto& group : {all_, box_, across_}) group->useStream(stream, caller);
}

// Which of them a graph's bytes go over is not known: they are counted once.
void HierarchicalGroup::enter(WireBytes replayed) {
  all_->enter(replayed);
  box_->enter({});
  across_->enter({});
}

void HierarchicalGroup::check() {
  for (const auto& group : {all_, box_, across_}) group->check();
}

void HierarchicalGroup::settle() {
  for (const auto& group : {all_, box_, across_}) group->settle();
}

void HierarchicalGroup::abort(const std::string& reason) {
  for (const auto& group : {all_, box_, across_}) group->abort(reason);
}

WireBytes HierarchicalGroup::wireBytes() const {
  WireBytes sum;
  for (const auto& group : {all_, box_, across_}) {
    const WireBytes bytes = group->wireBytes();
    sum.sent += bytes.sent;
    sum.received += bytes.received;
  }
  return sum;
}

}  // namespace hadal
