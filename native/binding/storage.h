// JavaScript handle of a block of native memory.
#pragma once
#include "binding/environment.h"
#include "core/storage.h"

namespace hadal {

class StorageHandle : public Napi::ObjectWrap<StorageHandle> {
 public:
  static constexpr const char* name = "Storage";
  static constexpr napi_type_tag tag{0x2f6f0c1be4714a52, 0xb1c85a3e97d04f6d};
  explicit StorageHandle(const Napi::CallbackInfo& info);
  // Throws when disposed.
  const std::shared_ptr<Storage>& storage() const;
  Napi::Value bytes(const Napi::CallbackInfo& info);
  void dispose(const Napi::CallbackInfo& info);

 private:
  std::shared_ptr<Storage> storage_;
};

}  // namespace hadal
