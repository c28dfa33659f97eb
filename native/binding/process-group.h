// JavaScript handle of a member of a process group.
#pragma once
#include <functional>

#include "binding/environment.h"
#include "comm/backend.h"
#include "core/task-thread.h"

namespace hadal {

class ProcessGroupHandle : public Napi::ObjectWrap<ProcessGroupHandle> {
 public:
  static constexpr const char* name = "ProcessGroup";
  static constexpr napi_type_tag tag{0x9a1d3b7e50c24f86, 0x84f2c6d10be97a35};
  // new ProcessGroup({backend, rank, size, host, timeoutMs, library})
  explicit ProcessGroupHandle(const Napi::CallbackInfo& info);
  ~ProcessGroupHandle() override;

  // Throws when disposed of or not connected.
  std::shared_ptr<ProcessGroup> group() const;
  Napi::Value rank(const Napi::CallbackInfo& info);
  Napi::Value size(const Napi::CallbackInfo& info);
  Napi::Value address(const Napi::CallbackInfo& info);
  // connect(addresses: Uint8Array[]) → Promise<void>, on a thread of its own
  Napi::Value connect(const Napi::CallbackInfo& info);
  // useLevels(box: ProcessGroup, across: ProcessGroup, leastBytes): all-reduces so large go in two levels; see
  // comm/hierarchical.h
  void useLevels(const Napi::CallbackInfo& info);
  // timeExchange(peer, bytes, times) → Promise<milliseconds[]> of messages one way; the peer calls it at the same time
  Napi::Value timeExchange(const Napi::CallbackInfo& info);
  void abort(const Napi::CallbackInfo& info);
  Napi::Value wireBytes(const Napi::CallbackInfo& info);
  void dispose(const Napi::CallbackInfo& info);
  // While the environment ends: what is under way fails, promises stay pending.
  void shutdown();

 private:
  struct Call;
  const std::shared_ptr<ConnectableGroup>& open() const;
  ProcessGroup& current() const { return levels_ ? *levels_ : *group_; }
  // Does the work on the handle's thread; what it throws rejects the promise.
  Napi::Value start(const Napi::CallbackInfo& info, std::function<void(Call&)> work);
  static void settle(Napi::Env env, Napi::Function, ProcessGroupHandle* handle, Call* call);
  using Callback = Napi::TypedThreadSafeFunction<ProcessGroupHandle, Call, &ProcessGroupHandle::settle>;

  Environment* environment_;
  std::shared_ptr<ConnectableGroup> group_;
  std::shared_ptr<ProcessGroup> levels_;  // what is called instead of group_; null: nothing
  enum class State { made, connecting, connected } state_ = State::made;
  Callback callback_;
  TaskThread thread_;
};

}  // namespace hadal
