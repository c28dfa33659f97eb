// The export list.
#include "binding/environment.h"

namespace {

// Handles finalised while the environment ends still look at it: it is kept for good.
void keep(Napi::Env, hadal::Environment*) {}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  auto* environment = new hadal::Environment;
  env.SetInstanceData<hadal::Environment, keep>(environment);
  // A worker that is terminated runs no exit listener: its devices are joined here.
  env.AddCleanupHook([environment] { hadal::shutdownDevices(*environment); });
  const auto define = [&](const char* name, Napi::FunctionReference& kept, Napi::Function constructor) {
    kept = Napi::Persistent(constructor);
    exports[name] = constructor;
  };
  define("Storage", environment->storage, hadal::defineStorage(env));
  define("Program", environment->program, hadal::defineProgram(env));
  define("Device", environment->device, hadal::defineDevice(env));
  hadal::defineKernelFunctions(env, exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(hadal, init)
