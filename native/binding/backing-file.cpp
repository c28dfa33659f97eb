#include "binding/backing-file.h"

#include <system_error>

namespace hadal {

BackingFileHandle::BackingFileHandle(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  tagAs<BackingFileHandle>(info);
  if (!info[0].IsString()) throw Napi::TypeError::New(info.Env(), "[native] expected a directory");
  try {
    file_ = std::make_shared<BackingFile>(info[0].As<Napi::String>().Utf8Value().c_str());
  } catch (const std::system_error& error) {
    throw Napi::Error::New(info.Env(), error.what());
  }
}

const std::shared_ptr<BackingFile>& BackingFileHandle::file() const {
  if (!file_) throw Napi::Error::New(Env(), "[native] the file was disposed of");
  return file_;
}

void BackingFileHandle::dispose(const Napi::CallbackInfo&) { file_.reset(); }

Napi::Function defineBackingFile(Napi::Env env) {
  return BackingFileHandle::DefineClass(env, "BackingFile",
                                        {BackingFileHandle::InstanceMethod<&BackingFileHandle::dispose>("dispose")});
}

}  // namespace hadal
