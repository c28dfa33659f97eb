// The export list.
#include "binding/environment.h"

namespace {

// Handles finalised while the environment ends still look at it: it is kept for good.
void keep(Napi::Env, hadal::Environment*) {}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  auto* environment = new hadal::Environment;
  env.SetInstanceData<hadal::Environment, keep>(environment);
  // A worker that is terminated runs no exit listener: its threads are joined here.
  env.AddCleanupHook([environment] { hadal::shutdown(*environment); });
  exports["Storage"] = hadal::defineStorage(env);
  exports["BackingFile"] = hadal::defineBackingFile(env);
  exports["storageBytes"] = Napi::Function::New<hadal::storageBytes>(env);
  exports["Program"] = hadal::defineProgram(env);
  exports["Device"] = hadal::defineDevice(env);
  exports["ProcessGroup"] = hadal::defineProcessGroup(env);
  hadal::defineKernelFunctions(env, exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(hadal, init)
