#include "binding/storage.h"

#include <system_error>

#include "binding/backing-file.h"
#include "binding/device.h"

namespace hadal {

// new Storage(bytes: number, file?: BackingFile, device?: Device, isHost?: boolean)
StorageHandle::StorageHandle(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  tagAs<StorageHandle>(info);
  const double bytes = info[0].IsNumber() ? info[0].As<Napi::Number>().DoubleValue() : -1;
  if (!(bytes >= 0 && bytes <= 9007199254740992.0))
    throw Napi::TypeError::New(info.Env(), "[native] expected a number of bytes >= 0");
  if (!info[2].IsUndefined()) {
    storage_ = unwrap<DeviceHandle>(info[2])->allocate(static_cast<int64_t>(bytes), info[3].ToBoolean());
    return;
  }
  if (!info[1].IsUndefined()) {
    const auto file = unwrap<BackingFileHandle>(info[1])->file();
    try {
      storage_ = Storage::allocateIn(file, static_cast<int64_t>(bytes));
    } catch (const std::system_error& error) {
      throw Napi::Error::New(info.Env(), error.what());
    }
    return;
  }
  storage_ = Storage::allocate(static_cast<int64_t>(bytes));
  if (!storage_)
    throw Napi::Error::New(
        info.Env(), "[native] out of memory allocating " + std::to_string(static_cast<int64_t>(bytes)) + " bytes");
}

const std::shared_ptr<Storage>& StorageHandle::storage() const {
  if (!storage_) throw Napi::Error::New(Env(), "[native] the tensor was disposed of");
  return storage_;
}

Napi::Value StorageHandle::bytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), storage_ ? static_cast<double>(storage_->bytes()) : 0);
}

void StorageHandle::dispose(const Napi::CallbackInfo&) { storage_.reset(); }

Napi::Value storageBytes(const Napi::CallbackInfo& info) {
  const StorageBytes inUse = Storage::inUse();
  auto bytes = Napi::Object::New(info.Env());
  bytes["live"] = static_cast<double>(inUse.live);
  bytes["peak"] = static_cast<double>(inUse.peak);
  return bytes;
}

Napi::Function defineStorage(Napi::Env env) {
  return StorageHandle::DefineClass(env, "Storage",
                                    {StorageHandle::InstanceMethod<&StorageHandle::dispose>("dispose"),
                                     StorageHandle::InstanceAccessor<&StorageHandle::bytes>("bytes")});
}

}  // namespace hadal
