#include "binding/device.h"

#include <omp.h>

#include <algorithm>
#include <stdexcept>

#include "binding/process-group.h"
#include "binding/program.h"
#include "binding/storage.h"
#include "core/affinity.h"
#include "core/backend.h"
#include "core/cpu-executor.h"

namespace hadal {

// One asynchronous call: what it runs, what it keeps alive, and the promise it settles.
struct DeviceHandle::Task {
  explicit Task(Napi::Env env) : promise(Napi::Promise::Deferred::New(env)) {}
  std::function<StepResult()> work;
  Napi::Promise::Deferred promise;
  std::vector<Napi::ObjectReference> kept;  // typed arrays and the device itself
  StepResult result;
  bool profile = false;
  std::atomic<bool> delivered{false};  // on its way to settle()
};

namespace {

// (threads: number, pinThreads?: boolean)
std::unique_ptr<Executor> openProcessor(const Napi::CallbackInfo& info) {
  const int threads = info[0].IsNumber() ? info[0].As<Napi::Number>().Int32Value() : 0;
  if (threads < 1 || threads > 1024) throw Napi::TypeError::New(info.Env(), "[native] expected 1 to 1024 threads");
  const std::string got = ", got " + std::to_string(threads);
  // oneDNN goes wrong where OpenMP grants fewer threads than it is told of.
  if (threads > omp_get_thread_limit())
    throw Napi::Error::New(info.Env(), "[device] expected at most " + std::to_string(omp_get_thread_limit()) +
                                           " threads (OMP_THREAD_LIMIT)" + got);
  std::vector<int> processors;
  if (info[1].ToBoolean()) {
    processors = allowedProcessors();
    if (processors.empty()) throw Napi::Error::New(info.Env(), "[device] expected Linux to pin threads; leave it out");
    if (processors.size() < static_cast<size_t>(threads))
      throw Napi::Error::New(info.Env(), "[device] expected at most " + std::to_string(processors.size()) +
                                             " pinned threads (the processors this process may use)" + got);
  }
  return std::make_unique<CpuExecutor>(threads, std::move(processors));
}

// (backend: string, index: number)
std::unique_ptr<Executor> openOn(const Napi::CallbackInfo& info) {
  const std::string name = info[0].As<Napi::String>();
  std::string why;
  const Backend* backend = findBackend(name, why);
  if (!backend || !backend->open) throw Napi::Error::New(info.Env(), "[device] " + why);
  try {
    return backend->open(info[1].IsNumber() ? info[1].As<Napi::Number>().Int32Value() : 0);
  } catch (const std::runtime_error& error) {
    throw Napi::Error::New(info.Env(), error.what());
  }
}

}  // namespace

DeviceHandle::DeviceHandle(const Napi::CallbackInfo& info)
    : ObjectWrap(info), environment_(&environmentOf(info.Env())) {
  tagAs<DeviceHandle>(info);
  executor_ = info[0].IsString() ? openOn(info) : openProcessor(info);
  callback_ = Callback::New(info.Env(), "hadal step", 0, 1, this);
  callback_.Unref(info.Env());
  environment_->devices.insert(this);
}

DeviceHandle::~DeviceHandle() {
  shutdown();
  environment_->devices.erase(this);
}

void DeviceHandle::shutdown() {
  if (!executor_) return;
  executor_->shutdown();
  executor_.reset();
  callback_.Release();
}

void DeviceHandle::shutdownFromScript(const Napi::CallbackInfo& info) {
  shutdown();
  const std::set<Task*> pending = pending_;
  for (Task* task : pending) {
    if (task->delivered) continue;
    task->result.cancelled = true;
    settle(info.Env(), {}, this, task);
  }
}

Napi::Value DeviceHandle::post(Task* task) {
  return post(task, [this, task] {
    task->result = task->work();
    task->work = nullptr;  // lets go of storages and programs here
    deliver(task);
  });
}

void DeviceHandle::deliver(Task* task) {
  task->delivered = true;
  callback_.NonBlockingCall(task);
}

Napi::Value DeviceHandle::post(Task* task, std::function<void()> work) {
  task->kept.push_back(Napi::Persistent(Value()));
  const Napi::Promise promise = task->promise.Promise();
  if (pending_.empty()) callback_.Ref(Env());
  pending_.insert(task);
  executor_->post(std::move(work));
  return promise;
}

void DeviceHandle::settle(Napi::Env env, Napi::Function, DeviceHandle* device, Task* task) {
  std::unique_ptr<Task> owned(task);
  if (!env) {  // the environment is gone: its references went with it
    for (auto& reference : task->kept) reference.SuppressDestruct();
    return;
  }
  Napi::HandleScope scope(env);
  device->pending_.erase(task);
  if (device->pending_.empty() && device->executor_) device->callback_.Unref(env);
  const StepResult& result = task->result;
  if (result.cancelled || !result.error.empty()) {
    auto error = Napi::Error::New(env, result.cancelled ? "[native] the device was shut down" : result.error);
    error.Set("entry", Napi::Number::New(env, static_cast<double>(result.failedEntry)));
    error.Set("instruction", Napi::Number::New(env, static_cast<double>(result.failedInstruction)));
    return task->promise.Reject(error.Value());
  }
  auto times = Napi::Float64Array::New(env, 3 + result.instructionMs.size());
  times[0] = result.communicationMs, times[1] = result.exposedMs, times[2] = result.timedMs;
  std::copy(result.instructionMs.begin(), result.instructionMs.end(), times.Data() + 3);
  task->promise.Resolve(times);
}

Napi::Value DeviceHandle::run(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!executor_) throw Napi::Error::New(env, "[native] the device was shut down");
  if (!info[0].IsArray()) throw Napi::TypeError::New(env, "[native] expected a schedule: a list of entries");
  const auto arena = unwrap<StorageHandle>(info[1])->storage();
  auto task = std::make_unique<Task>(env);
  task->profile = info[2].ToBoolean();
  const auto list = info[0].As<Napi::Array>();
  std::vector<ScheduleEntry> schedule;
  for (uint32_t i = 0; i < list.Length(); i++) {
    const Napi::Value item = list.Get(i);
    if (!item.IsObject()) throw Napi::TypeError::New(env, "[native] expected schedule entries to be objects");
    const auto object = item.As<Napi::Object>();
    const Napi::Value slots = object.Get("slots"), inputs = object.Get("inputs");
    if (!slots.IsArray() || !inputs.IsArray())
      throw Napi::TypeError::New(env, "[native] expected lists of slots and inputs");
    ScheduleEntry entry;
    entry.program = unwrap<ProgramHandle>(object.Get("program"))->program();
    for (uint32_t s = 0; s < slots.As<Napi::Array>().Length(); s++)
      entry.bindings.slots.push_back(unwrap<StorageHandle>(slots.As<Napi::Array>().Get(s))->storage());
    for (uint32_t s = 0; s < inputs.As<Napi::Array>().Length(); s++) {
      const Napi::Value input = inputs.As<Napi::Array>().Get(s);
      const Bytes bytes = bytesOf(input, "an input");
      entry.bindings.inputs.push_back({bytes.data, static_cast<int64_t>(bytes.size)});
      task->kept.push_back(Napi::Persistent(input.As<Napi::Object>()));
    }
    const std::string wrong = entry.program->checkBindings(entry.bindings);
    if (!wrong.empty()) throw Napi::Error::New(env, "[native] " + wrong);
    if (entry.program->threads() != executor_->threads() || entry.program->backend() != executor_->backend())
      throw Napi::Error::New(env, "[native] the program is for another device, or number of threads");
    if (arena->bytes() < entry.program->arenaBytes()) throw Napi::Error::New(env, "[native] the arena is too small");
    schedule.push_back(std::move(entry));
  }
  task->work = [executor = executor_.get(), schedule = std::move(schedule), arena, profile = task->profile] {
    return executor->run(schedule, arena, profile);
  };
  return post(task.release());
}

Napi::Value DeviceHandle::transfer(const Napi::CallbackInfo& info, bool toScript) {
  Napi::Env env = info.Env();
  if (!executor_) throw Napi::Error::New(env, "[native] the device was shut down");
  const auto storage = unwrap<StorageHandle>(info[0])->storage();
  const double offset = info[1].IsNumber() ? info[1].As<Napi::Number>().DoubleValue() : -1;
  const Bytes bytes = bytesOf(info[2], "the array to copy");
  if (!(offset >= 0) || offset + static_cast<double>(bytes.size) > static_cast<double>(storage->bytes()))
    throw Napi::RangeError::New(env, "[native] the copy lies outside the tensor");
  auto task = std::make_unique<Task>(env);
  task->kept.push_back(Napi::Persistent(info[2].As<Napi::Object>()));
  task->work = [executor = executor_.get(), storage, at = static_cast<int64_t>(offset), bytes, toScript] {
    if (bytes.size == 0) return StepResult{};  // an empty array has no address
    const auto size = static_cast<int64_t>(bytes.size);
    StepResult result;
    result.error =
        toScript ? executor->read(*storage, at, bytes.data, size) : executor->write(*storage, at, bytes.data, size);
    return result;
  };
  return post(task.release());
}

Napi::Value DeviceHandle::snapshot(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!executor_) throw Napi::Error::New(env, "[native] the device was shut down");
  if (!info[0].IsArray() || !info[1].IsArray())
    throw Napi::TypeError::New(env, "[native] expected lists of storages and of arrays");
  const auto storages = info[0].As<Napi::Array>(), targets = info[1].As<Napi::Array>();
  if (storages.Length() != targets.Length())
    throw Napi::TypeError::New(env, "[native] expected as many arrays as storages");
  auto task = std::make_unique<Task>(env);
  std::vector<BlockCopy> copies;
  for (uint32_t i = 0; i < storages.Length(); i++) {
    const auto& storage = unwrap<StorageHandle>(storages.Get(i))->storage();
    const Napi::Value target = targets.Get(i);
    const Bytes bytes = bytesOf(target, "the array to copy to");
    if (static_cast<int64_t>(bytes.size) != storage->bytes())
      throw Napi::RangeError::New(env, "[native] expected an array of the tensor's size");
    copies.push_back({storage, bytes.data});
    task->kept.push_back(Napi::Persistent(target.As<Napi::Object>()));
  }
  Task* posted = task.release();
  return post(posted, [this, posted, executor = executor_.get(), copies = std::move(copies)] {
    executor->snapshot(copies, [this, posted](std::string error) {
      posted->result.error = std::move(error);
      deliver(posted);
    });
  });
}

Napi::Value DeviceHandle::prepare(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!executor_) throw Napi::Error::New(env, "[native] the device was shut down");
  if (!info[0].IsArray()) throw Napi::TypeError::New(env, "[native] expected a list of arrays");
  const auto targets = info[0].As<Napi::Array>();
  auto task = std::make_unique<Task>(env);
  std::vector<Memory> blocks;
  for (uint32_t i = 0; i < targets.Length(); i++) {
    const Bytes bytes = bytesOf(targets.Get(i), "the array to prepare");
    blocks.push_back({bytes.data, static_cast<int64_t>(bytes.size)});
    task->kept.push_back(Napi::Persistent(targets.Get(i).As<Napi::Object>()));
  }
  Task* posted = task.release();
  return post(posted, [this, posted, executor = executor_.get(), blocks = std::move(blocks)] {
    executor->prepare(blocks, [this, posted] { deliver(posted); });
  });
}

void DeviceHandle::setGroup(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!executor_) throw Napi::Error::New(env, "[native] the device was shut down");
  const double axis = info[0].IsNumber() ? info[0].As<Napi::Number>().DoubleValue() : -1;
  if (!(axis >= 0 && axis < static_cast<double>(meshAxes) && axis == static_cast<int>(axis)))
    throw Napi::TypeError::New(env, "[native] expected the number of an axis of the mesh");
  const auto group = info[1].IsNull() ? nullptr : unwrap<ProcessGroupHandle>(info[1])->group();
  executor_->post(
      [executor = executor_.get(), axis = static_cast<MeshAxis>(axis), group] { executor->setGroup(axis, group); });
}

Napi::Value DeviceHandle::threads(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), executor_ ? executor_->threads() : 0);
}

Napi::Value DeviceHandle::memory(const Napi::CallbackInfo& info) {
  if (!executor_) throw Napi::Error::New(info.Env(), "[native] the device was shut down");
  const DeviceMemory inUse = executor_->memory();
  auto memory = Napi::Object::New(info.Env());
  memory["live"] = static_cast<double>(inUse.live);
  memory["peak"] = static_cast<double>(inUse.peak);
  memory["free"] = static_cast<double>(inUse.free);
  memory["total"] = static_cast<double>(inUse.total);
  return memory;
}

std::shared_ptr<Storage> DeviceHandle::allocate(int64_t bytes, bool isHost) {
  if (!executor_) throw Napi::Error::New(Env(), "[native] the device was shut down");
  try {
    return executor_->allocate(bytes, isHost);
  } catch (const std::runtime_error& error) {
    throw Napi::Error::New(Env(), error.what());
  }
}

Napi::Function defineDevice(Napi::Env env) {
  return DeviceHandle::DefineClass(env, "Device",
                                   {DeviceHandle::InstanceMethod<&DeviceHandle::run>("run"),
                                    DeviceHandle::InstanceMethod<&DeviceHandle::memory>("memory"),
                                    DeviceHandle::InstanceMethod<&DeviceHandle::read>("read"),
                                    DeviceHandle::InstanceMethod<&DeviceHandle::write>("write"),
                                    DeviceHandle::InstanceMethod<&DeviceHandle::snapshot>("snapshot"),
                                    DeviceHandle::InstanceMethod<&DeviceHandle::prepare>("prepare"),
                                    DeviceHandle::InstanceMethod<&DeviceHandle::setGroup>("setGroup"),
                                    DeviceHandle::InstanceMethod<&DeviceHandle::shutdownFromScript>("shutdown"),
                                    DeviceHandle::InstanceAccessor<&DeviceHandle::threads>("threads")});
}

void shutdown(Environment& environment) {
  for (DeviceHandle* device : environment.devices) device->shutdown();
  for (ProcessGroupHandle* group : environment.groups) group->shutdown();
}

}  // namespace hadal
