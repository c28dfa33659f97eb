// Who takes part in a group: every two ranks have a connection on which a thread of each tells the other why it leaves or
// fails, notices that the other's process is gone, and, when a collective takes too long, asks who has come to it. Backends
// send their data elsewhere.
#pragma once
#include <condition_variable>
#include <functional>
#include <map>
#include <thread>

#include "comm/failure.h"
#include "comm/links.h"

namespace hadal {

class Attendance {
 public:
  // `onFailure` wakes a collective under way; it is called once, on whichever thread learns of the failure first.
  Attendance(const GroupOptions& options, std::function<void()> onFailure);
  ~Attendance();

  // Begins: `links` hold a connection with each rank as `channel`.
  void begin(Links& links, int channel);

  // Around a collective, or, with `peer`, a message to or from one rank. enter() throws CommError when the group has failed.
  void enter(const char* what, int64_t bytes, int peer = -1);
  void leave();
  // A collective threw: tells the others and throws CommError with what is known of its cause.
  [[noreturn]] void explain(const std::string& error);

  // This rank takes no further part: what is under way fails here and, with the reason, everywhere.
  void abort(const std::string& reason);
  const Failure& failure() const { return failure_; }

 private:
  struct Peer;
  struct Message;
  void loop();
  void tell(Peer& peer, uint8_t type, int64_t number, const std::string& text);
  void tellAll(uint8_t type, int64_t number, const std::string& text);
  void hear(Peer& peer);
  void handle(Peer& peer, const Message& message, const std::string& text);
  void watch();
  void rollCall();
  void fail(const std::string& reason, bool tellOthers);
  std::string activity() const;

  const GroupOptions options_;
  const std::function<void()> onFailure_;
  Failure failure_;
  Waker waker_;

  mutable std::mutex mutex_;  // of all below
  std::condition_variable failed_;
  std::vector<Peer> peers_;
  // Collectives that this rank has come to; messages between two do not count.
  int64_t entered_ = 0;
  bool isActive_ = false;
  const char* what_ = "";
  int64_t bytes_ = 0;
  int peer_ = -1;
  std::chrono::steady_clock::time_point deadline_, answersUntil_;
  bool isAsking_ = false, isStopping_ = false;
  std::thread thread_;
};

}  // namespace hadal
