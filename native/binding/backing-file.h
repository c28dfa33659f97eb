// JavaScript handle of a file that storages lie in.
#pragma once
#include "binding/environment.h"
#include "core/backing-file.h"

namespace hadal {

class BackingFileHandle : public Napi::ObjectWrap<BackingFileHandle> {
 public:
  static constexpr const char* name = "BackingFile";
  static constexpr napi_type_tag tag{0x8c2f7d0e5a1b4f39, 0xa6d41f0b7e925c83};
  explicit BackingFileHandle(const Napi::CallbackInfo& info);
  // Throws when disposed.
  const std::shared_ptr<BackingFile>& file() const;
  void dispose(const Napi::CallbackInfo& info);

 private:
  std::shared_ptr<BackingFile> file_;
};

}  // namespace hadal
