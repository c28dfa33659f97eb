// JavaScript handle of a decoded program.
#pragma once
#include "binding/environment.h"
#include "core/program.h"

namespace hadal {

class ProgramHandle : public Napi::ObjectWrap<ProgramHandle> {
 public:
  static constexpr const char* name = "Program";
  static constexpr napi_type_tag tag{0x9d1c5d64f3a04b11, 0x8e5d2b70c6a1f302};
  explicit ProgramHandle(const Napi::CallbackInfo& info);
  const std::shared_ptr<const Program>& program() const { return program_; }
  Napi::Value arenaBytes(const Napi::CallbackInfo& info);

 private:
  std::shared_ptr<const Program> program_;
};

}  // namespace hadal
