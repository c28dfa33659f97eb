// A process group over Gloo: its algorithms over connections of ours (comm/links.h). Compiled into hadal-gloo.so.
#include <fcntl.h>
#include <gloo/allgather.h>
#include <gloo/allreduce.h>
#include <gloo/alltoall.h>
#include <gloo/barrier.h>
#include <gloo/broadcast.h>
#include <gloo/types.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "comm/attendance.h"
#include "comm/gloo/tcp.h"
#include "comm/gloo/wire.h"

namespace hadal {

namespace {

constexpr int control = 0, data = 1;  // connections of every two ranks

// Ours is told by the attendance, which asks who is missing; Gloo's would close everything first.
constexpr std::chrono::milliseconds noTimeout = std::chrono::hours(10000);

// Beside those of Gloo's own collectives (gloo/types.h).
constexpr uint8_t reduceScatterSlots = 0x40, messageSlots = 0x41, inboxSlots = 0x42;

// Sums of one segment are made while the next is on its way: large enough that a message costs little beside its data,
// small enough that it stays in the second-level cache.
constexpr int64_t segmentBytes = 1 << 20;

// How all-reduce goes, by its bytes; measured with 2 and 4 processes on loopback, in µs (everyone to everyone | Gloo's bcube
// | Gloo's ring): 2 × 64 KB 75 | 157 | 240, 2 × 256 KB 119 | 209 | 289, 2 × 1 MB 616 | 574 | 712, 2 × 4 MB 2933 | 3100 | 2211,
// 4 × 256 KB 533 | 690 | 1619, 4 × 1 MB 2457 | 1560 | 2565, 4 × 4 MB 17078 | 7316 | 7099.
constexpr int64_t mostToEveryone = 768 << 10;  // that a rank sends, to all others together
constexpr int64_t mostByCube = 2 << 20;

class GlooGroup final : public ConnectableGroup {
 public:
  explicit GlooGroup(const GroupOptions& options)
      : options_(options), links_(options, 2), attendance_(options, [this] { close(); }) {}

  int rank() const override { return options_.rank; }
  int size() const override { return options_.size; }
  std::vector<uint8_t> address() const override { return links_.address(); }

  void connect(const std::vector<std::vector<uint8_t>>& addresses) override {
    attendance_.failure().throwIfSet();
    try {
      links_.connect(addresses);
      link();
    } catch (const CommError&) {
      attendance_.failure().throwIfSet();
      throw;
    } catch (const std::exception& error) {
      throw CommError(std::string("[comm] Gloo cannot be set up: ") + error.what());
    }
    attendance_.begin(links_, control);
    openInboxes();
    barrier();  // nobody begins while somebody may yet fail to
  }

  void allReduce(void* numbers, int64_t count, DType dtype, ReduceOp, Reducer reduce) override {
    const int64_t bytes = count * bytesOf(dtype);
    perform("all-reduce", bytes, [&] {
      if (bytes <= inboxBytes()) return reduceOfAll(static_cast<char*>(numbers), bytes, count, reduce);
      using Algorithm = gloo::AllreduceOptions::Algorithm;
      gloo::AllreduceOptions options(context_);
      options.setAlgorithm(bytes <= mostByCube ? Algorithm::BCUBE : Algorithm::RING);
      setOutput(options, numbers, count, bytesOf(dtype));
      options.setReduceFunction([reduce](void* to, const void* a, const void* b, size_t count) {
        if (to != a) throw std::logic_error("expected sums in place");
        reduce(to, b, static_cast<int64_t>(count));
      });
      gloo::allreduce(options);
    });
  }

  void reduceScatter(void* in, void* out, int64_t count, DType dtype, ReduceOp, Reducer reduce) override {
    perform("reduce-scatter", options_.size * count * bytesOf(dtype), [&] {
      reduceToOwners(static_cast<char*>(in), count, bytesOf(dtype), reduce);
      std::memcpy(out, static_cast<char*>(in) + rank() * count * bytesOf(dtype),
                  static_cast<size_t>(count * bytesOf(dtype)));
    });
  }

  void allGather(const void* in, void* out, int64_t bytes) override {
    perform("all-gather", bytes, [&] {
      char* own = static_cast<char*>(out) + rank() * bytes;
      if (in != own) std::memcpy(own, in, static_cast<size_t>(bytes));
      gloo::AllgatherOptions options(context_);
      options.setOutput(static_cast<char*>(out), static_cast<size_t>(size() * bytes));
      gloo::allgather(options);
    });
  }

  void allToAll(const void* in, void* out, int64_t bytes) override {
    perform("all-to-all", size() * bytes, [&] {
      gloo::AlltoallOptions options(context_);
      options.setInput(static_cast<char*>(const_cast<void*>(in)), static_cast<size_t>(size() * bytes));
      options.setOutput(static_cast<char*>(out), static_cast<size_t>(size() * bytes));
      gloo::alltoall(options);
    });
  }

  void broadcast(void* bytes, int64_t count, int root) override {
    perform("broadcast", count, [&] {
      gloo::BroadcastOptions options(context_);
      options.setOutput(static_cast<char*>(bytes), static_cast<size_t>(count));
      options.setRoot(root);
      gloo::broadcast(options);
    });
  }

  void send(const void* bytes, int64_t count, int to) override {
    perform(
        "send", count,
        [&] {
          auto buffer = context_->createUnboundBuffer(const_cast<void*>(bytes), static_cast<size_t>(count));
          buffer->send(to, gloo::Slot::build(messageSlots, 0));
          buffer->waitSend(noTimeout);
        },
        to);
  }

  void receive(void* bytes, int64_t count, int from) override {
    perform(
        "receive", count,
        [&] {
          auto buffer = context_->createUnboundBuffer(bytes, static_cast<size_t>(count));
          buffer->recv(from, gloo::Slot::build(messageSlots, 0));
          buffer->waitRecv(noTimeout);
        },
        from);
  }

  void barrier() override {
    perform("barrier", 0, [&] {
      gloo::BarrierOptions options(context_);
      gloo::barrier(options);
    });
  }

  void abort(const std::string& reason) override {
    attendance_.abort(reason);
    links_.interrupt();
  }

  WireBytes wireBytes() const override {
    std::lock_guard lock(socketsMutex_);
    WireBytes total;
    for (const Descriptor& socket : sockets_) {
      const WireBytes bytes = wireBytesOf(socket.get());
      total.sent += bytes.sent;
      total.received += bytes.received;
    }
    return total;
  }

 private:
  // Gloo's pairs over the connections.
  void link() {
    gloo::transport::tcp::attr attributes(options_.host.empty() ? "127.0.0.1" : options_.host.c_str());
    auto device = gloo::transport::tcp::CreateDevice(attributes);
    auto linked =
        std::make_shared<LinkedContext>(std::static_pointer_cast<gloo::transport::tcp::Device>(device), rank(), size());
    linked->setTimeout(noTimeout);
    for (int r = 0; r < size(); r++) {
      if (r == rank()) continue;
      Descriptor socket = links_.take(r, data);
      {
        std::lock_guard lock(socketsMutex_);
        sockets_.emplace_back(fcntl(socket.get(), F_DUPFD_CLOEXEC, 0));
      }
      linked->link(r, std::move(socket));
    }
    context_ = std::make_shared<AlgorithmContext>(device, linked);
    std::lock_guard lock(socketsMutex_);
    linked_ = std::move(linked);
  }

  // Wakes what is under way, here and, as connections close, at the others.
  void close() {
    std::lock_guard lock(socketsMutex_);
    if (linked_) linked_->wake(std::make_exception_ptr(CommError("[comm] the process group has failed")));
    for (const Descriptor& socket : sockets_) shutdown(socket.get(), SHUT_RDWR);
  }

  template <class Work>
  void perform(const char* what, int64_t bytes, Work work, int peer = -1) {
    if (!context_) throw CommError("[comm] expected a connected group, got one that is not");
    attendance_.enter(what, bytes, peer);
    if (peer >= size() || peer == rank()) attendance_.explain("there is no such peer, rank " + std::to_string(peer));
    try {
      work();
    } catch (const std::exception& error) {
      attendance_.explain(error.what());
    }
    attendance_.leave();
  }

  static void setOutput(gloo::AllreduceOptions& options, void* numbers, int64_t count, int64_t bytes) {
    const auto elements = static_cast<size_t>(count);
    if (bytes == 4) {
      options.setOutput(static_cast<uint32_t*>(numbers), elements);
    } else if (bytes == 2) {
      options.setOutput(static_cast<uint16_t*>(numbers), elements);
    } else {
      options.setOutput(static_cast<uint8_t*>(numbers), elements);
    }
  }

  int64_t inboxBytes() const { return mostToEveryone / (size() - 1); }

  // A place for a small message of each rank, which is received as soon as it comes: nobody has to ask for it first.
  void openInboxes() {
    for (int r = 0; r < size(); r++) {
      inboxes_.emplace_back(r == rank() ? 0 : static_cast<size_t>(inboxBytes()));
      inboxBuffers_.push_back(context_->createUnboundBuffer(inboxes_.back().data(), inboxes_.back().size()));
      awaitMessage(r);
    }
  }
  void awaitMessage(int from) {
    if (from != rank()) inboxBuffers_[static_cast<size_t>(from)]->recv(from, gloo::Slot::build(inboxSlots, 0));
  }

  // Everyone sends all to everyone and adds in the order of ranks.
  void reduceOfAll(char* own, int64_t bytes, int64_t count, Reducer reduce) {
    const auto buffer = context_->createUnboundBuffer(own, static_cast<size_t>(bytes));
    for (int i = 1; i < size(); i++) buffer->send((rank() + i) % size(), gloo::Slot::build(inboxSlots, 0));
    for (int i = 1; i < size(); i++) buffer->waitSend(noTimeout);
    char* sum = nullptr;
    for (int r = 0; r < size(); r++) {
      const auto from = static_cast<size_t>(r);
      if (r != rank()) inboxBuffers_[from]->waitRecv(noTimeout);
      char* addend = r == rank() ? own : inboxes_[from].data();
      if (sum) {
        reduce(sum, addend, count);
      } else {
        sum = addend;
      }
    }
    if (sum != own) std::memcpy(own, sum, static_cast<size_t>(bytes));
    for (int r = 0; r < size(); r++) awaitMessage(r);
  }

  // Round a ring: part p goes from rank p + 1 on, grows by each rank's addend, and is whole at rank p. Parts travel in
  // segments, two at a time; of each rank's part there are at least two, so that one is summed while the other is on its
  // way. The order of addends follows from the part alone.
  void reduceToOwners(char* in, int64_t count, int64_t numberBytes, Reducer reduce) {
    const int64_t ranks = size(), partBytes = count * numberBytes;
    const int64_t largest = segmentBytes / numberBytes;
    const int64_t segments = std::max<int64_t>(2, (count + largest - 1) / largest);
    const int64_t each = (count + segments - 1) / segments;
    const int next = static_cast<int>((rank() + 1) % ranks), previous = static_cast<int>((rank() + ranks - 1) % ranks);
    const auto slot = gloo::Slot::build(reduceScatterSlots, 0);
    received_.resize(static_cast<size_t>(2 * each * numberBytes));
    const auto from = context_->createUnboundBuffer(received_.data(), received_.size());
    const auto all = context_->createUnboundBuffer(in, static_cast<size_t>(ranks * partBytes));
    struct Piece {
      int64_t offset, count;
    };
    // What is sent in iteration i; what is received is what the previous rank sends.
    const auto pieceOf = [&](int64_t rank, int64_t i) {
      const int64_t part = (rank - 1 - i / segments + 2 * ranks) % ranks, begin = i % segments * each;
      return Piece{part * partBytes + begin * numberBytes, std::min(each, count - begin)};
    };
    const int64_t iterations = (ranks - 1) * segments;
    for (int64_t i = 0; i < iterations + 2; i++) {
      const int64_t half = i % 2 * each * numberBytes;
      if (i >= 2) {
        const Piece piece = pieceOf(previous, i - 2), sent = pieceOf(rank(), i - 2);
        if (piece.count > 0) {
          from->waitRecv(noTimeout);
          reduce(in + piece.offset, received_.data() + half, piece.count);
        }
        if (sent.count > 0) all->waitSend(noTimeout);
      }
      if (i >= iterations) continue;
      const Piece piece = pieceOf(previous, i), sent = pieceOf(rank(), i);
      if (piece.count > 0)
        from->recv(previous, slot, static_cast<size_t>(half), static_cast<size_t>(piece.count * numberBytes));
      if (sent.count > 0)
        all->send(next, slot, static_cast<size_t>(sent.offset), static_cast<size_t>(sent.count * numberBytes));
    }
  }

  const GroupOptions options_;
  Links links_;
  std::shared_ptr<AlgorithmContext> context_;
  std::vector<char> received_;
  std::vector<std::vector<char>> inboxes_;  // by rank
  std::vector<std::unique_ptr<gloo::transport::UnboundBuffer>> inboxBuffers_;

  mutable std::mutex socketsMutex_;
  // The pairs' sockets, by descriptors of our own: Gloo closes its ones whenever something is wrong.
  std::vector<Descriptor> sockets_;
  std::shared_ptr<LinkedContext> linked_;

  Attendance attendance_;  // the first to end: its thread calls close()
};

}  // namespace

}  // namespace hadal

extern "C" __attribute__((visibility("default"))) hadal::ConnectableGroup* hadalOpenGloo(
    const hadal::GroupOptions& options) {
  return new hadal::GlooGroup(options);
}
