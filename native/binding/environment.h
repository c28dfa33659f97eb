// What one JavaScript environment (main thread or worker) holds: its devices and process groups.
#pragma once
// A worker that ends refuses all calls of its JavaScript; without this, an error on its way there aborts the process.
#define NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS
#include <napi.h>

#include <memory>
#include <set>

namespace hadal {

class DeviceHandle;
class ProcessGroupHandle;

struct Environment {
  std::set<DeviceHandle*> devices;
  std::set<ProcessGroupHandle*> groups;
};

inline Environment& environmentOf(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

// Marks a handle that is being constructed, so that unwrap() knows it whatever its prototype says.
template <class T>
void tagAs(const Napi::CallbackInfo& info) {
  info.This().As<Napi::Object>().TypeTag(&T::tag);
}

// The native object behind a JavaScript one, or a thrown TypeError.
template <class T>
T* unwrap(const Napi::Value& value) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&T::tag))
    throw Napi::TypeError::New(value.Env(), std::string("[native] expected a ") + T::name + " handle");
  return T::Unwrap(value.As<Napi::Object>());
}

// Start and size of a typed array's memory (also of a view of a SharedArrayBuffer).
struct Bytes {
  uint8_t* data;
  size_t size;
};
inline Bytes bytesOf(const Napi::Value& value, const char* what) {
  if (!value.IsTypedArray())
    throw Napi::TypeError::New(value.Env(), std::string("[native] expected ") + what + " as a typed array");
  napi_typedarray_type type;
  size_t length, offset;
  void* data;
  napi_value buffer;
  if (napi_get_typedarray_info(value.Env(), value, &type, &length, &data, &buffer, &offset) != napi_ok)
    throw Napi::Error::New(value.Env(), std::string("[native] cannot read ") + what);
  const size_t size = value.As<Napi::TypedArray>().ElementSize() * length;
  return {static_cast<uint8_t*>(data), size};
}

void defineKernelFunctions(Napi::Env env, Napi::Object exports);
Napi::Function defineStorage(Napi::Env env);
Napi::Function defineBackingFile(Napi::Env env);
Napi::Value storageBytes(const Napi::CallbackInfo& info);
Napi::Function defineProgram(Napi::Env env);
Napi::Function defineDevice(Napi::Env env);
Napi::Function defineProcessGroup(Napi::Env env);
// Ends what devices and process groups do, and joins their threads.
void shutdown(Environment& environment);

}  // namespace hadal
