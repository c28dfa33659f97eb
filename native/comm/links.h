// Connections among the ranks of a group: one TCP connection or several between every two. Each rank listens, tells the
// others where and a secret by way of its address, and takes connections only from those that know it, so that strangers
// who find the port cannot take a rank's place or disturb.
#pragma once
#include <atomic>
#include <chrono>
#include <string>
#include <vector>

#include "comm/backend.h"

namespace hadal {

// An open file, closed at its end.
class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(other.release()) {}
  Descriptor& operator=(Descriptor&& other) noexcept;
  ~Descriptor();
  int get() const { return fd_; }
  int release();

 private:
  int fd_;
};

// Wakes a thread that polls.
class Waker {
 public:
  Waker();
  void wake() const;
  void clear() const;
  int descriptor() const { return reader_.get(); }

 private:
  Descriptor reader_, writer_;
};

class Links {
 public:
  // Listens. Throws CommError where the host's address is not this machine's.
  Links(const GroupOptions& options, int channels);

  std::vector<uint8_t> address() const;
  // Connects with all ranks within the options' timeout; throws CommError that names those who are missing, or with what
  // interrupt() was given.
  void connect(const std::vector<std::vector<uint8_t>>& addresses);
  // From any thread.
  void interrupt() const { waker_.wake(); }
  // The connected socket, which does not block and is not handed to child processes; once.
  Descriptor take(int rank, int channel);

  static constexpr int secretBytes = 32;

 private:
  struct Hello;
  struct Attempt;
  Hello helloTo(int rank, int channel, const std::vector<std::vector<uint8_t>>& addresses) const;
  bool isRight(const Hello& hello, const std::vector<std::vector<uint8_t>>& addresses) const;
  Attempt begin(int rank, int channel, const std::vector<std::vector<uint8_t>>& addresses) const;
  enum class Progress { going, done, failed };
  Progress advance(Attempt& attempt, const std::vector<std::vector<uint8_t>>& addresses);
  std::vector<int> missing() const;

  GroupOptions options_;
  int channels_;
  Descriptor listener_;
  uint8_t secret_[secretBytes];
  std::vector<Descriptor> sockets_;  // [rank][channel]
  Waker waker_;
};

// "rank 2", "ranks 0, 2 and 3"
std::string ranksText(const std::vector<int>& ranks);

}  // namespace hadal
