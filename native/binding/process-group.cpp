#include "binding/process-group.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <utility>

#include "comm/hierarchical.h"

namespace hadal {

// What was begun by a call from JavaScript, and what came of it.
struct ProcessGroupHandle::Call {
  explicit Call(Napi::Env env) : promise(Napi::Promise::Deferred::New(env)) {}
  Napi::Promise::Deferred promise;
  Napi::ObjectReference handle;
  std::string error;
  std::vector<double> times;  // milliseconds; empty: the promise is of nothing
};

namespace {

GroupOptions optionsOf(const Napi::Object& given) {
  const auto number = [&](const char* name) {
    const Napi::Value value = given.Get(name);
    return value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1;
  };
  const auto text = [&](const char* name) {
    const Napi::Value value = given.Get(name);
    if (value.IsUndefined()) return std::string();
    if (!value.IsString())
      throw Napi::TypeError::New(given.Env(), std::string("[native] expected ") + name + " as text");
    return value.As<Napi::String>().Utf8Value();
  };
  const double rank = number("rank"), size = number("size"), timeoutMs = number("timeoutMs");
  if (!(size >= 1 && size <= 65536 && rank >= 0 && rank < size && timeoutMs >= 1 && timeoutMs <= 1e12))
    throw Napi::TypeError::New(given.Env(), "[native] expected a rank below the size, and timeoutMs of 1 or more");
  GroupOptions options;
  options.rank = static_cast<int>(rank);
  options.size = static_cast<int>(size);
  options.timeout = std::chrono::milliseconds(static_cast<int64_t>(timeoutMs));
  options.host = text("host");
  options.library = text("library");
  options.device = static_cast<int>(number("device"));
  return options;
}

}  // namespace

ProcessGroupHandle::ProcessGroupHandle(const Napi::CallbackInfo& info)
    : ObjectWrap(info), environment_(&environmentOf(info.Env())) {
  Napi::Env env = info.Env();
  tagAs<ProcessGroupHandle>(info);
  if (!info[0].IsObject()) throw Napi::TypeError::New(env, "[native] expected options of a process group");
  const auto given = info[0].As<Napi::Object>();
  const GroupOptions options = optionsOf(given);
  const Napi::Value named = given.Get("backend");
  const std::string backend = named.IsString() ? named.As<Napi::String>().Utf8Value() : "";
  if (backend != "gloo" && backend != "nccl") throw Napi::TypeError::New(env, "[native] expected backend gloo or nccl");
  try {
    group_ = options.size == 1 ? openSelf(options) : backend == "gloo" ? openGloo(options) : openNccl(options);
  } catch (const CommError& error) {
    throw Napi::Error::New(env, error.what());
  }
  callback_ = Callback::New(env, "hadal process group", 0, 1, this);
  callback_.Unref(env);
  environment_->groups.insert(this);
}

ProcessGroupHandle::~ProcessGroupHandle() {
  thread_.stop();  // who connects is kept: nothing runs
  if (group_) callback_.Release();
  environment_->groups.erase(this);
}

void ProcessGroupHandle::shutdown() {
  if (!group_) return;
  current().abort("[comm] the process ended");
  thread_.stop();
  levels_.reset();
  group_.reset();
  callback_.Release();
}

void ProcessGroupHandle::dispose(const Napi::CallbackInfo&) {
  if (!group_) return;
  current().abort("[comm] the process group was disposed of");
  levels_.reset();
  group_.reset();  // calls under way end with that, and settle
  callback_.Release();
}

const std::shared_ptr<ConnectableGroup>& ProcessGroupHandle::open() const {
  if (!group_) throw Napi::Error::New(Env(), "[native] the process group was disposed of");
  return group_;
}

std::shared_ptr<ProcessGroup> ProcessGroupHandle::group() const {
  const std::shared_ptr<ProcessGroup> group = open();
  if (state_ != State::connected) throw Napi::Error::New(Env(), "[native] expected a connected process group");
  return levels_ ? levels_ : group;
}

Napi::Value ProcessGroupHandle::rank(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), open()->rank());
}

Napi::Value ProcessGroupHandle::size(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), open()->size());
}

Napi::Value ProcessGroupHandle::address(const Napi::CallbackInfo& info) {
  const auto bytes = open()->address();
  auto address = Napi::Uint8Array::New(info.Env(), bytes.size());
  std::copy(bytes.begin(), bytes.end(), address.Data());
  return address;
}

Napi::Value ProcessGroupHandle::connect(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const auto group = open();
  if (!info[0].IsArray()) throw Napi::TypeError::New(env, "[native] expected a list of addresses");
  const auto list = info[0].As<Napi::Array>();
  if (list.Length() != static_cast<uint32_t>(group->size()))
    throw Napi::TypeError::New(env, "[native] expected an address of each rank");
  std::vector<std::vector<uint8_t>> addresses;
  for (uint32_t i = 0; i < list.Length(); i++) {
    const Napi::Value item = list.Get(i);
    const Bytes bytes = bytesOf(item, "an address");
    addresses.emplace_back(bytes.data, bytes.data + bytes.size);
  }
  if (state_ != State::made) throw Napi::Error::New(env, "[native] expected a process group to be connected once");
  state_ = State::connecting;
  return start(info, [group, addresses = std::move(addresses)](Call&) { group->connect(addresses); });
}

Napi::Value ProcessGroupHandle::start(const Napi::CallbackInfo& info, std::function<void(Call&)> work) {
  Napi::Env env = info.Env();
  auto* call = new Call(env);
  call->handle = Napi::Persistent(info.This().As<Napi::Object>());
  const Napi::Promise promise = call->promise.Promise();
  callback_.Ref(env);
  callback_.Acquire();  // it outlives dispose()
  thread_.post([call, work = std::move(work), callback = callback_]() mutable {
    try {
      work(*call);
    } catch (const std::exception& error) {
      call->error = error.what();
    }
    callback.NonBlockingCall(call);
    callback.Release();
  });
  return promise;
}

void ProcessGroupHandle::settle(Napi::Env env, Napi::Function, ProcessGroupHandle* handle, Call* call) {
  std::unique_ptr<Call> owned(call);
  if (!env) {  // the environment is gone: its references went with it
    call->handle.SuppressDestruct();
    return;
  }
  Napi::HandleScope scope(env);
  if (handle->group_) handle->callback_.Unref(env);
  if (!call->error.empty()) return call->promise.Reject(Napi::Error::New(env, call->error).Value());
  handle->state_ = State::connected;
  if (call->times.empty()) return call->promise.Resolve(env.Undefined());
  auto times = Napi::Array::New(env, call->times.size());
  for (uint32_t i = 0; i < call->times.size(); i++) times.Set(i, call->times[i]);
  call->promise.Resolve(times);
}

void ProcessGroupHandle::useLevels(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const auto all = group();
  const auto box = unwrap<ProcessGroupHandle>(info[0])->group(), across = unwrap<ProcessGroupHandle>(info[1])->group();
  const double least = info[2].IsNumber() ? info[2].As<Napi::Number>().DoubleValue() : -1;
  if (!(least >= 0 && least <= 1e15)) throw Napi::TypeError::New(env, "[native] expected leastBytes of 0 or more");
  if (levels_) throw Napi::Error::New(env, "[native] expected a process group of one level");
  try {
    levels_ = std::make_shared<HierarchicalGroup>(all, box, across, static_cast<int64_t>(least));
  } catch (const CommError& error) {
    throw Napi::Error::New(env, error.what());
  }
}

Napi::Value ProcessGroupHandle::timeExchange(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const auto group = this->group();
  const auto number = [&](int i) { return info[i].IsNumber() ? info[i].As<Napi::Number>().DoubleValue() : -1; };
  const double peer = number(0), bytes = number(1), times = number(2);
  if (!(peer >= 0 && peer < group->size() && peer != group->rank() && bytes >= 1 && bytes <= 1 << 30 && times >= 1 &&
        times <= 1e6))
    throw Napi::TypeError::New(env, "[native] expected another rank, 1 to 2^30 bytes, and at least one time");
  return start(info, [group, peer = static_cast<int>(peer), bytes = static_cast<int64_t>(bytes),
                      times = static_cast<int>(times)](Call& call) {
    std::vector<uint8_t> data(static_cast<size_t>(bytes));
    for (int i = 0; i < times; i++) {
      const auto began = std::chrono::steady_clock::now();
      if (group->rank() < peer) {
        group->send(data.data(), bytes, peer);
        group->receive(data.data(), bytes, peer);
      } else {
        group->receive(data.data(), bytes, peer);
        group->send(data.data(), bytes, peer);
      }
      const std::chrono::duration<double, std::milli> both = std::chrono::steady_clock::now() - began;
      call.times.push_back(both.count() / 2);
    }
  });
}

void ProcessGroupHandle::abort(const Napi::CallbackInfo& info) {
  if (!info[0].IsString()) throw Napi::TypeError::New(info.Env(), "[native] expected a reason");
  open();
  current().abort(info[0].As<Napi::String>().Utf8Value());
}

Napi::Value ProcessGroupHandle::wireBytes(const Napi::CallbackInfo& info) {
  open();
  const WireBytes bytes = current().wireBytes();
  auto result = Napi::Object::New(info.Env());
  result["sent"] = static_cast<double>(bytes.sent);
  result["received"] = static_cast<double>(bytes.received);
  return result;
}

Napi::Function defineProcessGroup(Napi::Env env) {
  using Handle = ProcessGroupHandle;
  return Handle::DefineClass(
      env, "ProcessGroup",
      {Handle::InstanceMethod<&Handle::connect>("connect"), Handle::InstanceMethod<&Handle::useLevels>("useLevels"),
       Handle::InstanceMethod<&Handle::timeExchange>("timeExchange"), Handle::InstanceMethod<&Handle::abort>("abort"),
       Handle::InstanceMethod<&Handle::wireBytes>("wireBytes"), Handle::InstanceMethod<&Handle::dispose>("dispose"),
       Handle::InstanceAccessor<&Handle::rank>("rank"), Handle::InstanceAccessor<&Handle::size>("size"),
       Handle::InstanceAccessor<&Handle::address>("address")});
}

}  // namespace hadal
