// What a backend of process groups is: a group that has an address first and is
// connected with all addresses then.
#pragma once
#include <chrono>
#include <memory>
#include <vector>

#include "core/process-group.h"

namespace hadal {

struct GroupOptions {
  int rank = 0, size = 1;
  // Address or name of this host by which the others reach it; what the group
  // listens on is bound to it.
  std::string host;
  std::chrono::milliseconds timeout{0};  // that a collective waits for the others, and that connecting does
  std::string library;                   // the backend's; empty: where it usually is
  int device = -1;                       // the GPU that NCCL is to use; -1: CUDA's choice
};

class ConnectableGroup : public ProcessGroup {
 public:
  // What the others must know; empty where they need nothing of this rank.
  virtual std::vector<uint8_t> address() const = 0;
  // Blocks until all ranks are there, whose addresses are given in their order;
  // throws CommError naming who is missing.
  virtual void connect(const std::vector<std::vector<uint8_t>>& addresses) = 0;
};

// Of one rank alone: copies.
std::shared_ptr<ConnectableGroup> openSelf(const GroupOptions& options);
// Both throw CommError where the library cannot be opened, saying what to
// install.
std::shared_ptr<ConnectableGroup> openNccl(const GroupOptions& options);
std::shared_ptr<ConnectableGroup> openGloo(const GroupOptions& options);

}  // namespace hadal
