// Kernel descriptions: params layout, buffers, workspace, and what this machine runs.
#include <cstdlib>
#include <cstring>
#include <vector>

#include "binding/environment.h"
#include "core/affinity.h"
#include "core/backend.h"
#include "core/registry.h"
#include "cpu/onednn.h"

namespace hadal {

namespace {

const char* typeName(FieldType type) {
  switch (type) {
    case FieldType::int64:
      return "int64";
    case FieldType::float64:
      return "float64";
    case FieldType::dtype:
      return "dtype";
    case FieldType::bytes:
      return "bytes";
  }
  return "";
}

Napi::Value listKernels(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  auto kernels = Napi::Object::New(env);
  for (const KernelEntry* entry = kernelsBegin(); entry != kernelsEnd(); entry++) {
    if (findKernel(entry->contract->name) != entry) continue;
    auto kernel = Napi::Object::New(env);
    auto fields = Napi::Array::New(env);
    for (int i = 0; i < entry->contract->fieldCount; i++) {
      const Field& field = entry->contract->fields[i];
      auto item = Napi::Object::New(env);
      item["name"] = field.name;
      item["type"] = typeName(field.type);
      item["offset"] = field.offset;
      item["count"] = field.count;
      fields[static_cast<uint32_t>(i)] = item;
    }
    kernel["paramsBytes"] = static_cast<double>(entry->contract->paramsBytes);
    kernel["fields"] = fields;
    kernel["isa"] = isaName(entry->isa);
    kernels[entry->contract->name] = kernel;
  }
  return kernels;
}

struct CheckedCall {
  const KernelEntry* kernel;
  std::vector<uint64_t> params;  // 8-byte aligned copy
};

// (name, params: Uint8Array): a backend's kernel and its checked params.
CheckedCall checkedCall(const Napi::CallbackInfo& info, const std::string& backendName) {
  const std::string name = info[0].ToString();
  std::string why;
  const Backend* backend = findBackend(backendName, why);
  if (!backend) throw Napi::Error::New(info.Env(), "[native] " + why);
  const KernelEntry* kernel = backend->kernel(name);
  if (!kernel) throw Napi::Error::New(info.Env(), "[native] no kernel '" + name + "' in this build of " + backendName);
  const Bytes params = bytesOf(info[1], "params");
  if (params.size != kernel->contract->paramsBytes)
    throw Napi::Error::New(info.Env(), "[native] params of '" + name + "' have the wrong size");
  CheckedCall call{kernel, std::vector<uint64_t>((params.size + 7) / 8)};
  std::memcpy(call.params.data(), params.data, params.size);
  if (const char* wrong = kernel->contract->check(call.params.data()))
    throw Napi::Error::New(info.Env(), "[" + name + "] " + wrong);
  return call;
}

// (name, params, threads: number, backend: string)
Napi::Value workspaceBytes(const Napi::CallbackInfo& info) {
  const CheckedCall call = checkedCall(info, info[3].ToString());
  const int threads = info[2].ToNumber().Int32Value();
  const int64_t bytes = call.kernel->workspaceBytes ? call.kernel->workspaceBytes(call.params.data(), threads) : 0;
  return Napi::Number::New(info.Env(), static_cast<double>(bytes));
}

Napi::Value bufferList(const Napi::CallbackInfo& info) {
  const CheckedCall call = checkedCall(info, "cpu");
  const BufferList list = call.kernel->contract->buffers(call.params.data());
  auto buffers = Napi::Array::New(info.Env());
  for (int i = 0; i < list.count; i++) {
    const Access access = list.items[i].access;
    auto item = Napi::Object::New(info.Env());
    item["name"] = list.items[i].name;
    item["bytes"] = static_cast<double>(list.items[i].bytes);
    item["access"] = access == Access::in ? "in" : access == Access::out ? "out" : "inout";
    item["isOptional"] = list.items[i].isOptional;
    buffers[static_cast<uint32_t>(i)] = item;
  }
  return buffers;
}

Napi::Value features(const Napi::CallbackInfo& info) {
  auto features = Napi::Object::New(info.Env());
  features["isa"] = isaName(chosenIsa());
  features["onednn"] = onednnVersion();
  return features;
}

// (name: string): a backend's devices and libraries, and why there are none.
Napi::Value describeBackend(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  auto description = Napi::Object::New(env);
  std::string why;
  const Backend* backend = findBackend(info[0].ToString(), why);
  const auto devices = backend && backend->devices ? backend->devices(why) : std::vector<DeviceDescription>();
  const auto libraries = backend && backend->libraries ? backend->libraries() : std::vector<std::string>();
  auto list = Napi::Array::New(env);
  for (const DeviceDescription& device : devices) {
    auto item = Napi::Object::New(env);
    item["name"] = device.name;
    item["major"] = device.major;
    item["minor"] = device.minor;
    item["processors"] = device.processors;
    item["memoryBytes"] = static_cast<double>(device.memoryBytes);
    list[list.Length()] = item;
  }
  auto lines = Napi::Array::New(env);
  for (const std::string& line : libraries) lines[lines.Length()] = line;
  description["isBuilt"] = backend != nullptr;
  description["devices"] = list;
  description["libraries"] = lines;
  description["why"] = why;
  return description;
}

// (array: TypedArray): how many bytes beyond a multiple of 64 its memory begins. The bridge to TensorFlow.js asks.
Napi::Value misalignment(const Napi::CallbackInfo& info) {
  const auto address = reinterpret_cast<uintptr_t>(bytesOf(info[0], "an array").data);
  return Napi::Number::New(info.Env(), static_cast<double>(address % 64));
}

// Lets the calling thread of JavaScript run only where no other one would.
Napi::Value giveWay(const Napi::CallbackInfo& info) {
  giveWayToOthers();
  return info.Env().Undefined();
}

Napi::Value shutdownAll(const Napi::CallbackInfo& info) {
  shutdown(environmentOf(info.Env()));
  return info.Env().Undefined();
}

}  // namespace

void defineKernelFunctions(Napi::Env env, Napi::Object exports) {
  exports["kernels"] = Napi::Function::New<listKernels>(env);
  exports["workspaceBytes"] = Napi::Function::New<workspaceBytes>(env);
  exports["bufferList"] = Napi::Function::New<bufferList>(env);
  exports["features"] = Napi::Function::New<features>(env);
  exports["backend"] = Napi::Function::New<describeBackend>(env);
  exports["misalignment"] = Napi::Function::New<misalignment>(env);
  exports["giveWay"] = Napi::Function::New<giveWay>(env);
  exports["shutdown"] = Napi::Function::New<shutdownAll>(env);
}

}  // namespace hadal
