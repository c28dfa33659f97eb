#include "comm/attendance.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace hadal {

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr uint8_t question = 1;  // number: the collective that it is about
constexpr uint8_t answer = 2;    // number: collectives that the sender has come to
constexpr uint8_t failed = 3;    // text: why
constexpr uint8_t leaving = 4;   // number: collectives that the sender took part in; text: why

constexpr uint32_t maxText = 4096;

}  // namespace

struct Attendance::Message {
  uint8_t type = 0, padding[3] = {};
  uint32_t length = 0;  // of the text that follows
  int64_t number = 0;
};

struct Attendance::Peer {
  int rank = 0;
  Descriptor socket;
  std::string inbox;
  bool isGone = false, hasLeft = false;
  int64_t lastCollective = 0;  // of one that has left
  int64_t answered = -1;
  std::string reason;
};

Attendance::Attendance(const GroupOptions& options, std::function<void()> onFailure)
    : options_(options), onFailure_(std::move(onFailure)) {}

Attendance::~Attendance() {
  abort("it closed its process group");
  {
    std::lock_guard lock(mutex_);
    isStopping_ = true;
  }
  waker_.wake();
  if (thread_.joinable()) thread_.join();
}

void Attendance::begin(Links& links, int channel) {
  std::lock_guard lock(mutex_);
  for (int r = 0; r < options_.size; r++) {
    if (r == options_.rank) continue;
    peers_.emplace_back();
    peers_.back().rank = r;
    peers_.back().socket = links.take(r, channel);
  }
  thread_ = std::thread([this] { loop(); });
}

void Attendance::enter(const char* what, int64_t bytes, int peer) {
  std::lock_guard lock(mutex_);
  failure_.throwIfSet();
  what_ = what, bytes_ = bytes, peer_ = peer;
  if (peer < 0) {
    entered_++;
    for (const Peer& each : peers_)
      if (each.hasLeft && each.lastCollective < entered_)
        fail(activity() + ": rank " + std::to_string(each.rank) + " has left: " + each.reason, true);
    failure_.throwIfSet();
  }
  isActive_ = true;
  isAsking_ = false;
  deadline_ = Clock::now() + options_.timeout;
}

void Attendance::leave() {
  std::lock_guard lock(mutex_);
  isActive_ = false;
}

void Attendance::explain(const std::string& error) {
  std::unique_lock lock(mutex_);
  const auto hasLeft = [](const Peer& peer) { return peer.hasLeft; };
  // What closed a connection of the data shows here too, if not at the same moment.
  failed_.wait_for(lock, milliseconds(1000),
                   [&] { return failure_.isSet() || std::any_of(peers_.begin(), peers_.end(), hasLeft); });
  const auto left = std::find_if(peers_.begin(), peers_.end(), hasLeft);
  const std::string plain = error.starts_with("[comm] ") ? error.substr(7) : error;
  const std::string known =
      left == peers_.end() ? plain : "rank " + std::to_string(left->rank) + " has left: " + left->reason;
  fail(activity() + ": " + known, true);
  isActive_ = false;
  failure_.throwIfSet();
  throw CommError("[comm] " + plain);
}

void Attendance::abort(const std::string& reason) {
  std::lock_guard lock(mutex_);
  if (failure_.isSet()) return;
  const std::string told = reason.starts_with("[comm] ") ? reason.substr(7) : reason;
  if (isActive_) {
    tellAll(failed, 0, "[comm] rank " + std::to_string(options_.rank) + " ended amidst " + what_ + ": " + told);
  } else {
    tellAll(leaving, entered_, told);
  }
  fail(reason, false);
}

void Attendance::fail(const std::string& reason, bool tellOthers) {
  if (!failure_.set(reason)) return;
  if (tellOthers) tellAll(failed, 0, "[comm] " + reason);
  failed_.notify_all();
  onFailure_();
}

std::string Attendance::activity() const {
  return std::string(what_) + " of " + std::to_string(bytes_) + " bytes on rank " + std::to_string(options_.rank) +
         " of " + std::to_string(options_.size);
}

void Attendance::tellAll(uint8_t type, int64_t number, const std::string& text) {
  for (Peer& peer : peers_) tell(peer, type, number, text);
}

void Attendance::tell(Peer& peer, uint8_t type, int64_t number, const std::string& text) {
  if (peer.isGone) return;
  Message message;
  message.type = type;
  message.number = number;
  message.length = static_cast<uint32_t>(std::min<size_t>(text.size(), maxText));
  std::string bytes(reinterpret_cast<const char*>(&message), sizeof(message));
  bytes.append(text, 0, message.length);
  // A few hundred bytes in the life of a group: they always fit, or the other end is not there.
  [[maybe_unused]] const ssize_t sent =
      send(peer.socket.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
}

void Attendance::loop() {
  // How late the end of a collective's time may be noticed.
  const auto tick = std::clamp<int64_t>(options_.timeout.count() / 10, 5, 250);
  std::vector<pollfd> polled;
  for (;;) {
    {
      std::lock_guard lock(mutex_);
      if (isStopping_) return;
      polled.assign(1, {waker_.descriptor(), POLLIN, 0});
      for (const Peer& peer : peers_) polled.push_back({peer.isGone ? -1 : peer.socket.get(), POLLIN, 0});
    }
    poll(polled.data(), polled.size(), static_cast<int>(tick));
    std::lock_guard lock(mutex_);
    if (polled[0].revents) waker_.clear();
    for (size_t i = 0; i < peers_.size(); i++)
      if (polled[i + 1].revents) hear(peers_[i]);
    watch();
  }
}

void Attendance::hear(Peer& peer) {
  char bytes[4096];
  ssize_t got;
  while ((got = recv(peer.socket.get(), bytes, sizeof(bytes), MSG_DONTWAIT)) > 0)
    peer.inbox.append(bytes, static_cast<size_t>(got));
  const bool isClosed = got == 0 || (errno != EAGAIN && errno != EINTR);
  Message message;
  while (peer.inbox.size() >= sizeof(message)) {
    std::memcpy(&message, peer.inbox.data(), sizeof(message));
    message.length = std::min(message.length, maxText);
    if (peer.inbox.size() < sizeof(message) + message.length) break;
    const std::string text = peer.inbox.substr(sizeof(message), message.length);
    peer.inbox.erase(0, sizeof(message) + message.length);
    handle(peer, message, text);
  }
  if (!isClosed) return;
  peer.isGone = true;
  if (!peer.hasLeft)
    fail("rank " + std::to_string(peer.rank) + " is gone: its process ended or the connection to it broke", true);
}

void Attendance::handle(Peer& peer, const Message& message, const std::string& text) {
  switch (message.type) {
    case question:
      return tell(peer, answer, entered_, "");
    case answer:
      peer.answered = message.number;
      return;
    case failed:
      return fail(text, false);
    case leaving:
      peer.hasLeft = true;
      peer.lastCollective = message.number;
      peer.reason = text;
      failed_.notify_all();
      if (isActive_ && peer_ < 0 && peer.lastCollective < entered_)
        fail(activity() + ": rank " + std::to_string(peer.rank) + " has left: " + text, true);
      return;
  }
}

void Attendance::watch() {
  const auto now = Clock::now();
  if (!isActive_ || failure_.isSet() || now < deadline_) return;
  if (!isAsking_) {
    isAsking_ = true;
    // Who is there answers within a round trip, unless its machine is loaded.
    answersUntil_ = now + std::clamp(options_.timeout / 2, milliseconds(50), milliseconds(2000));
    for (Peer& peer : peers_) peer.answered = -1;
    return tellAll(question, entered_, "");
  }
  const bool isComplete =
      std::all_of(peers_.begin(), peers_.end(), [](const Peer& peer) { return peer.answered >= 0; });
  if (isComplete || now >= answersUntil_) rollCall();
}

void Attendance::rollCall() {
  std::vector<int> silent, late;
  for (const Peer& peer : peers_) {
    if (peer_ >= 0 && peer.rank != peer_) continue;
    if (peer.answered < 0) {
      silent.push_back(peer.rank);
    } else if (peer_ >= 0 || peer.answered < entered_) {
      late.push_back(peer.rank);
    }
  }
  std::string text =
      activity() + " expected all to take part within " + std::to_string(options_.timeout.count()) + " ms";
  if (!silent.empty()) text += "; " + ranksText(silent) + (silent.size() > 1 ? " do not answer" : " does not answer");
  if (!late.empty()) text += "; " + ranksText(late) + " did not come to it";
  if (silent.empty() && late.empty())
    text += "; all have come to it, but the data takes longer: allow more time, or see what the network does";
  fail(text, true);
}

}  // namespace hadal
