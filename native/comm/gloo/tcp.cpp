#include "comm/gloo/tcp.h"

#include <sched.h>
#include <unistd.h>

namespace hadal {

void LinkedPair::adopt(Descriptor socket) {
  std::lock_guard lock(m_);
  if (ex_) std::rethrow_exception(ex_);
  // Whether it still listens or somebody has come within these microseconds.
  device_->unregisterDescriptor(fd_, this);
  ::close(fd_);
  fd_ = socket.release();
  handleConnected();
}

void LinkedPair::handleEvents(int events) {
  if (!m_.try_lock()) {
    sched_yield();
    return;
  }
  m_.unlock();
  Pair::handleEvents(events);
}

void LinkedContext::link(int rank, Descriptor socket) {
  auto pair = std::make_unique<LinkedPair>(this, device_.get(), rank, getTimeout());
  auto* linked = pair.get();
  pairs_[static_cast<size_t>(rank)] = std::move(pair);
  linked->adopt(std::move(socket));
}

std::unique_ptr<gloo::transport::UnboundBuffer> LinkedContext::createUnboundBuffer(void* data, size_t bytes) {
  return std::make_unique<WakeableBuffer>(std::static_pointer_cast<LinkedContext>(shared_from_this()), data, bytes);
}

void LinkedContext::wake(std::exception_ptr why) {
  std::lock_guard lock(buffersMutex_);
  why_ = why;
  for (WakeableBuffer* buffer : buffers_) buffer->wake(why);
}

WakeableBuffer::WakeableBuffer(std::shared_ptr<LinkedContext> context, void* data, size_t bytes)
    : UnboundBuffer(context, data, bytes), linked_(std::move(context)) {
  std::lock_guard lock(linked_->buffersMutex_);
  linked_->buffers_.insert(this);
  if (linked_->why_) wake(linked_->why_);
}

WakeableBuffer::~WakeableBuffer() {
  std::lock_guard lock(linked_->buffersMutex_);
  linked_->buffers_.erase(this);
}

AlgorithmContext::AlgorithmContext(std::shared_ptr<gloo::transport::Device> device,
                                   std::shared_ptr<LinkedContext> linked)
    : gloo::Context(linked->rank, linked->size) {
  device_ = std::move(device);
  setTimeout(linked->getTimeout());
  transportContext_ = std::move(linked);
}

}  // namespace hadal
