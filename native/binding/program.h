// JavaScript handle of a decoded program.
#pragma once
#include "binding/environment.h"
#include "core/program.h"

namespace hadal {

class ProgramHandle : public Napi::ObjectWrap<ProgramHandle> {
 public:
  explicit ProgramHandle(const Napi::CallbackInfo& info);
  const std::shared_ptr<const Program>& program() const { return program_; }
  Napi::Value arenaBytes(const Napi::CallbackInfo& info);

 private:
  std::shared_ptr<const Program> program_;
};

}  // namespace hadal
