// What Gloo's TCP transport lets its derived classes do, and is needed here: pairs over sockets that are connected already,
// and buffers whose waiting threads can be woken.
#pragma once
#include <gloo/context.h>
#include <gloo/transport/tcp/context.h>
#include <gloo/transport/tcp/device.h>
#include <gloo/transport/tcp/pair.h>
#include <gloo/transport/tcp/unbound_buffer.h>

#include <exception>
#include <mutex>
#include <set>

#include "comm/links.h"

namespace hadal {

// A pair over a socket of ours. Gloo's own way of connecting takes whoever comes first to its port, and what a stranger
// sends ends the process.
class LinkedPair final : public gloo::transport::tcp::Pair {
 public:
  using Pair::Pair;
  void adopt(Descriptor socket);
  // Gloo's loop leaves events alone while a caller holds the pair, and comes back at once: where both are on one processor,
  // it would keep the caller from finishing until its slice ends (4 ms in place of 0.2 ms for a small sum).
  void handleEvents(int events) override;
};

class WakeableBuffer;

class LinkedContext final : public gloo::transport::tcp::Context {
 public:
  using Context::Context;
  // Instead of connecting.
  void link(int rank, Descriptor socket);
  std::unique_ptr<gloo::transport::UnboundBuffer> createUnboundBuffer(void* data, size_t bytes) override;
  // Whatever waits for a buffer, now or later, throws this. Gloo itself leaves those that wait to send waiting when a
  // connection breaks.
  void wake(std::exception_ptr why);

 private:
  friend class WakeableBuffer;
  std::mutex buffersMutex_;
  std::set<WakeableBuffer*> buffers_;
  std::exception_ptr why_;
};

class WakeableBuffer final : public gloo::transport::tcp::UnboundBuffer {
 public:
  WakeableBuffer(std::shared_ptr<LinkedContext> context, void* data, size_t bytes);
  ~WakeableBuffer() override;
  void wake(std::exception_ptr why) { signalException(why); }

 private:
  const std::shared_ptr<LinkedContext> linked_;
};

// What Gloo's algorithms are given.
class AlgorithmContext final : public gloo::Context {
 public:
  AlgorithmContext(std::shared_ptr<gloo::transport::Device> device, std::shared_ptr<LinkedContext> linked);
};

}  // namespace hadal
