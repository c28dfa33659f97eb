// The group of one rank: what it gives is what it gets.
#include <cstring>

#include "comm/backend.h"
#include "comm/failure.h"

namespace hadal {

namespace {

class SelfGroup final : public ConnectableGroup {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  std::vector<uint8_t> address() const override { return {}; }
  void connect(const std::vector<std::vector<uint8_t>>&) override { failure_.throwIfSet(); }

  void allReduce(void*, int64_t, DType, ReduceOp, Reducer) override { failure_.throwIfSet(); }
  void reduceScatter(void* in, void* out, int64_t count, DType dtype, ReduceOp, Reducer) override {
    copy(in, out, count * bytesOf(dtype));
  }
  void allGather(const void* in, void* out, int64_t bytes) override { copy(in, out, bytes); }
  void allToAll(const void* in, void* out, int64_t bytes) override { copy(in, out, bytes); }
  void broadcast(void*, int64_t, int) override { failure_.throwIfSet(); }
  void send(const void*, int64_t, int) override {
    throw CommError("[comm] expected another rank to send to, got none");
  }
  void receive(void*, int64_t, int) override {
    throw CommError("[comm] expected another rank to receive from, got none");
  }
  void barrier() override { failure_.throwIfSet(); }

  void abort(const std::string& reason) override { failure_.set(reason); }
  WireBytes wireBytes() const override { return {}; }

 private:
  void copy(const void* in, void* out, int64_t bytes) {
    failure_.throwIfSet();
    if (bytes > 0 && in != out) std::memmove(out, in, static_cast<size_t>(bytes));
  }
  Failure failure_;
};

}  // namespace

std::shared_ptr<ConnectableGroup> openSelf(const GroupOptions&) { return std::make_shared<SelfGroup>(); }

}  // namespace hadal
