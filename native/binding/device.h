// JavaScript handle of a device: an executor and the way its results come back to the event loop.
#pragma once
#include "binding/environment.h"
#include "core/executor.h"

namespace hadal {

class DeviceHandle : public Napi::ObjectWrap<DeviceHandle> {
 public:
  static constexpr const char* name = "Device";
  static constexpr napi_type_tag tag{0x51c04c7a90e24d1b, 0xa6fd1c39527b8e04};
  // (threads: number, pinThreads?: boolean): the processor; (backend: 'cuda' | 'cuda-sim', index: number): another device.
  explicit DeviceHandle(const Napi::CallbackInfo& info);
  ~DeviceHandle() override;

  // run(schedule: {program, slots: Storage[], inputs: TypedArray[]}[], arena: Storage, profile: boolean)
  //   → Promise<Float64Array>: milliseconds that collectives took, that the computation waited for them, of the
  //   instructions whose time is always wanted, and, when profiling, of each
  Napi::Value run(const Napi::CallbackInfo& info);
  // read(storage, offset, target: TypedArray) and write(storage, offset, source: TypedArray) → Promise<void>,
  // in order with the steps.
  Napi::Value read(const Napi::CallbackInfo& info) { return transfer(info, true); }
  Napi::Value write(const Napi::CallbackInfo& info) { return transfer(info, false); }
  // snapshot(storages: Storage[], targets: TypedArray[]) → Promise<void>: copies whole storages as they are after the
  // steps posted before, while later ones go on.
  Napi::Value snapshot(const Napi::CallbackInfo& info);
  // prepare(targets: TypedArray[]) → Promise<void>: has the system provide their memory, of which nothing is kept.
  Napi::Value prepare(const Napi::CallbackInfo& info);
  // setGroup(axis: number, group: ProcessGroup | null): of the steps that are posted from now on.
  void setGroup(const Napi::CallbackInfo& info);
  // memory() → {live, peak, free, total}: bytes of this device's blocks, and of the whole device (0: none of its own)
  Napi::Value memory(const Napi::CallbackInfo& info);
  std::shared_ptr<Storage> allocate(int64_t bytes, bool isHost);
  Napi::Value threads(const Napi::CallbackInfo& info);
  // Ends the step in progress and joins; what was not done is rejected.
  void shutdownFromScript(const Napi::CallbackInfo& info);
  // The same while the environment ends: promises stay pending.
  void shutdown();

 private:
  struct Task;
  // Runs the task's work on the executor thread and delivers its result.
  Napi::Value post(Task* task);
  // The same for work that sees to the delivery itself.
  Napi::Value post(Task* task, std::function<void()> work);
  void deliver(Task* task);
  Napi::Value transfer(const Napi::CallbackInfo& info, bool toScript);
  static void settle(Napi::Env env, Napi::Function, DeviceHandle* device, Task* task);
  using Callback = Napi::TypedThreadSafeFunction<DeviceHandle, Task, &DeviceHandle::settle>;

  Environment* environment_;
  std::unique_ptr<Executor> executor_;
  Callback callback_;
  std::set<Task*> pending_;
};

}  // namespace hadal
