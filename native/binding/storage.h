// JavaScript handle of a block of native memory.
#pragma once
#include "binding/environment.h"
#include "core/storage.h"

namespace hadal {

class StorageHandle : public Napi::ObjectWrap<StorageHandle> {
 public:
  explicit StorageHandle(const Napi::CallbackInfo& info);
  // Throws when disposed.
  const std::shared_ptr<Storage>& storage() const;
  Napi::Value bytes(const Napi::CallbackInfo& info);
  void dispose(const Napi::CallbackInfo& info);

 private:
  std::shared_ptr<Storage> storage_;
};

}  // namespace hadal
