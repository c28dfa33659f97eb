#include "binding/program.h"

#include <stdexcept>

#include "core/backend.h"

namespace hadal {

// new Program(words: Float64Array, params: Uint8Array, constants: Uint8Array, kernelNames: string[], threads: number,
// backend: string)
ProgramHandle::ProgramHandle(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  tagAs<ProgramHandle>(info);
  const Bytes words = bytesOf(info[0], "instruction words");
  const Bytes params = bytesOf(info[1], "params");
  const Bytes constants = bytesOf(info[2], "constants");
  if (info[0].As<Napi::TypedArray>().TypedArrayType() != napi_float64_array || !info[3].IsArray())
    throw Napi::TypeError::New(info.Env(), "[native] expected Float64Array words and a list of kernel names");
  const int threads = info[4].IsNumber() ? info[4].As<Napi::Number>().Int32Value() : 0;
  if (threads < 1 || threads > 1024) throw Napi::TypeError::New(info.Env(), "[native] expected 1 to 1024 threads");
  const auto names = info[3].As<Napi::Array>();
  std::vector<std::string> kernelNames;
  for (uint32_t i = 0; i < names.Length(); i++) kernelNames.push_back(names.Get(i).ToString());
  std::string why;
  const Backend* backend = findBackend(info[5].ToString(), why);
  if (!backend) throw Napi::Error::New(info.Env(), "[native] " + why);
  try {
    program_ = std::make_shared<const Program>(reinterpret_cast<const double*>(words.data), words.size / 8,
                                               std::vector<uint8_t>(params.data, params.data + params.size),
                                               std::vector<uint8_t>(constants.data, constants.data + constants.size),
                                               kernelNames, threads, backend->kernel);
  } catch (const std::runtime_error& error) {
    throw Napi::Error::New(info.Env(), std::string("[native] ") + error.what());
  }
}

Napi::Value ProgramHandle::arenaBytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(program_->arenaBytes()));
}

Napi::Function defineProgram(Napi::Env env) {
  return ProgramHandle::DefineClass(env, "Program",
                                    {ProgramHandle::InstanceAccessor<&ProgramHandle::arenaBytes>("arenaBytes")});
}

}  // namespace hadal
