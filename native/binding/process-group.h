// JavaScript handle of a member of a process group.
#pragma once
#include "binding/environment.h"
#include "comm/backend.h"
#include "core/executor.h"

namespace hadal {

class ProcessGroupHandle : public Napi::ObjectWrap<ProcessGroupHandle> {
 public:
  static constexpr const char *name = "ProcessGroup";
  static constexpr napi_type_tag tag{0x9a1d3b7e50c24f86, 0x84f2c6d10be97a35};
  // new ProcessGroup({backend, rank, size, host, timeoutMs, library})
  explicit ProcessGroupHandle(const Napi::CallbackInfo &info);
  ~ProcessGroupHandle() override;

  // Throws when disposed of or not connected.
  std::shared_ptr<ProcessGroup> group() const;
  Napi::Value rank(const Napi::CallbackInfo &info);
  Napi::Value size(const Napi::CallbackInfo &info);
  Napi::Value address(const Napi::CallbackInfo &info);
  // connect(addresses: Uint8Array[]) → Promise<void>, on a thread of its own
  Napi::Value connect(const Napi::CallbackInfo &info);
  void abort(const Napi::CallbackInfo &info);
  Napi::Value wireBytes(const Napi::CallbackInfo &info);
  void dispose(const Napi::CallbackInfo &info);
  // While the environment ends: what is under way fails, promises stay pending.
  void shutdown();

 private:
  struct Connecting;
  const std::shared_ptr<ConnectableGroup> &open() const;
  static void settle(Napi::Env env, Napi::Function, ProcessGroupHandle *handle, Connecting *connecting);
  using Callback = Napi::TypedThreadSafeFunction<ProcessGroupHandle, Connecting, &ProcessGroupHandle::settle>;

  Environment *environment_;
  std::shared_ptr<ConnectableGroup> group_;
  enum class State { made, connecting, connected } state_ = State::made;
  Callback callback_;
  TaskThread connecting_;
};

}  // namespace hadal
