// The export list.
#include "binding/environment.h"

namespace {

Napi::Object init(Napi::Env env, Napi::Object exports) {
  auto* environment = new hadal::Environment;
  // Kept for good: handles finalised while the environment ends still look at it.
  env.SetInstanceData<hadal::Environment, [](Napi::Env, hadal::Environment*) {}>(environment);
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
