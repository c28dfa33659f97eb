// Why a group is of no use any more: the first reason given holds.
#pragma once
#include <atomic>
#include <mutex>
#include <string>

#include "core/process-group.h"

namespace hadal {

class Failure {
 public:
  // False when there was a reason already.
  bool set(const std::string& reason) {
    std::lock_guard lock(mutex_);
    if (isSet_) return false;
    reason_ = reason.starts_with("[comm]") ? reason : "[comm] " + reason;
    isSet_ = true;
    return true;
  }
  bool isSet() const { return isSet_; }
  void throwIfSet() const {
    if (!isSet_) return;
    std::lock_guard lock(mutex_);
    throw CommError(reason_);
  }

 private:
  mutable std::mutex mutex_;
  std::string reason_;
  std::atomic<bool> isSet_{false};
};

}  // namespace hadal
