#include "comm/links.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <random>

namespace hadal {

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t maxStrangers = 64;  // connections that have not said who they are; the oldest gives way

void configure(int fd) {
  fcntl(fd, F_SETFD, FD_CLOEXEC);
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

// The address of a name or number that belongs to this machine, listened on with a port of the system's choice.
Descriptor listenOn(const std::string& host) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  const int problem = getaddrinfo(host.c_str(), nullptr, &hints, &found);
  const auto refuse = [&](const std::string& reason) -> CommError {
    return CommError("[comm] expected an address of this machine to listen on, got '" + host + "' (" + reason + ")");
  };
  if (problem) throw refuse(gai_strerror(problem));
  std::string reason = "it has none";
  Descriptor listener;
  for (const addrinfo* each = found; each && listener.get() < 0; each = each->ai_next) {
    Descriptor fd(socket(each->ai_family, SOCK_STREAM, 0));
    if (fd.get() >= 0 && bind(fd.get(), each->ai_addr, each->ai_addrlen) == 0 && listen(fd.get(), 128) == 0) {
      configure(fd.get());
      listener = std::move(fd);
    } else {
      reason = std::strerror(errno);
    }
  }
  freeaddrinfo(found);
  if (listener.get() < 0) throw refuse(reason);
  return listener;
}

// Where a rank listens and its secret, as bytes that others understand.
struct Address {
  uint8_t secret[Links::secretBytes];
  uint16_t family;  // 4 or 6
  uint16_t port;    // as on the wire
  uint8_t host[16];
};

sockaddr_storage socketAddressOf(const Address& address, socklen_t& length) {
  sockaddr_storage storage{};
  if (address.family == 4) {
    auto& ipv4 = reinterpret_cast<sockaddr_in&>(storage);
    ipv4.sin_family = AF_INET;
    ipv4.sin_port = address.port;
    std::memcpy(&ipv4.sin_addr, address.host, sizeof(ipv4.sin_addr));
    length = sizeof(ipv4);
  } else {
    auto& ipv6 = reinterpret_cast<sockaddr_in6&>(storage);
    ipv6.sin6_family = AF_INET6;
    ipv6.sin6_port = address.port;
    std::memcpy(&ipv6.sin6_addr, address.host, sizeof(ipv6.sin6_addr));
    length = sizeof(ipv6);
  }
  return storage;
}

Address addressOf(const std::vector<uint8_t>& bytes) {
  Address address;
  if (bytes.size() == sizeof(address)) std::memcpy(&address, bytes.data(), sizeof(address));
  if (bytes.size() != sizeof(address) || (address.family != 4 && address.family != 6))
    throw CommError("[comm] expected the address of a process group's rank, got " + std::to_string(bytes.size()) +
                    " bytes of something else");
  return address;
}

// In a time that does not tell where they differ.
bool isEqual(const uint8_t* a, const uint8_t* b) {
  uint8_t difference = 0;
  for (int i = 0; i < Links::secretBytes; i++) difference |= a[i] ^ b[i];
  return difference == 0;
}

}  // namespace

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) close(fd_);
    fd_ = other.release();
  }
  return *this;
}

Descriptor::~Descriptor() {
  if (fd_ >= 0) close(fd_);
}

int Descriptor::release() {
  const int fd = fd_;
  fd_ = -1;
  return fd;
}

Waker::Waker() {
  int ends[2];
  if (pipe(ends) != 0)
    throw CommError(std::string("[comm] expected a pipe, the system refused: ") + std::strerror(errno));
  for (const int end : ends) {
    fcntl(end, F_SETFD, FD_CLOEXEC);
    fcntl(end, F_SETFL, O_NONBLOCK);
  }
  reader_ = Descriptor(ends[0]);
  writer_ = Descriptor(ends[1]);
}

void Waker::wake() const {
  const char byte = 0;
  [[maybe_unused]] const ssize_t written = write(writer_.get(), &byte, 1);  // a full pipe wakes as well
}

void Waker::clear() const {
  char bytes[64];
  while (read(reader_.get(), bytes, sizeof(bytes)) > 0) {
  }
}

std::string ranksText(const std::vector<int>& ranks) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < ranks.size(); i++)
    text += (i == 0 ? "" : i + 1 == ranks.size() ? " and " : ", ") + std::to_string(ranks[i]);
  return text;
}

// What both ends say first: who they are, and that each knows the other's secret.
struct Links::Hello {
  uint64_t magic = 0x316c646168636f6d;
  uint32_t rank, channel;
  uint8_t yours[secretBytes], mine[secretBytes];
};

// A connection that is not one of the group's yet.
struct Links::Attempt {
  Descriptor socket;
  int rank = -1, channel = 0;  // −1: somebody who has not said yet
  bool isConnecting = false;
  size_t got = 0;
  Hello hello;
};

Links::Links(const GroupOptions& options, int channels)
    : options_(options), channels_(channels), listener_(listenOn(options.host.empty() ? "127.0.0.1" : options.host)) {
  std::random_device random;
  for (auto& byte : secret_) byte = static_cast<uint8_t>(random());
  for (int i = 0; i < options.size * channels; i++) sockets_.emplace_back();
}

std::vector<uint8_t> Links::address() const {
  sockaddr_storage storage{};
  socklen_t length = sizeof(storage);
  if (getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&storage), &length) != 0) return {};
  Address address{};
  std::memcpy(address.secret, secret_, sizeof(secret_));
  if (storage.ss_family == AF_INET) {
    const auto& ipv4 = reinterpret_cast<const sockaddr_in&>(storage);
    address.family = 4;
    address.port = ipv4.sin_port;
    std::memcpy(address.host, &ipv4.sin_addr, sizeof(ipv4.sin_addr));
  } else {
    const auto& ipv6 = reinterpret_cast<const sockaddr_in6&>(storage);
    address.family = 6;
    address.port = ipv6.sin6_port;
    std::memcpy(address.host, &ipv6.sin6_addr, sizeof(ipv6.sin6_addr));
  }
  const auto* begin = reinterpret_cast<const uint8_t*>(&address);
  return {begin, begin + sizeof(address)};
}

Links::Hello Links::helloTo(int rank, int channel, const std::vector<std::vector<uint8_t>>& addresses) const {
  Hello hello;
  hello.rank = static_cast<uint32_t>(options_.rank);
  hello.channel = static_cast<uint32_t>(channel);
  std::memcpy(hello.yours, addressOf(addresses[static_cast<size_t>(rank)]).secret, sizeof(hello.yours));
  std::memcpy(hello.mine, secret_, sizeof(hello.mine));
  return hello;
}

bool Links::isRight(const Hello& hello, const std::vector<std::vector<uint8_t>>& addresses) const {
  return hello.magic == Hello().magic && hello.rank < addresses.size() &&
         hello.channel < static_cast<uint32_t>(channels_) && isEqual(hello.yours, secret_) &&
         isEqual(hello.mine, addressOf(addresses[hello.rank]).secret);
}

Links::Attempt Links::begin(int rank, int channel, const std::vector<std::vector<uint8_t>>& addresses) const {
  socklen_t length = 0;
  const sockaddr_storage to = socketAddressOf(addressOf(addresses[static_cast<size_t>(rank)]), length);
  Attempt attempt;
  attempt.rank = rank;
  attempt.channel = channel;
  attempt.isConnecting = true;
  attempt.socket = Descriptor(socket(to.ss_family, SOCK_STREAM, 0));
  if (attempt.socket.get() < 0)
    throw CommError(std::string("[comm] expected a socket, the system refused: ") + std::strerror(errno));
  configure(attempt.socket.get());
  // The address that the others know this rank by is the one it comes from.
  sockaddr_storage own{};
  socklen_t ownLength = sizeof(own);
  if (getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&own), &ownLength) == 0 &&
      own.ss_family == to.ss_family) {
    if (own.ss_family == AF_INET) {
      reinterpret_cast<sockaddr_in&>(own).sin_port = 0;
    } else {
      reinterpret_cast<sockaddr_in6&>(own).sin6_port = 0;
    }
    bind(attempt.socket.get(), reinterpret_cast<const sockaddr*>(&own), ownLength);  // a wish: routing may know better
  }
  ::connect(attempt.socket.get(), reinterpret_cast<const sockaddr*>(&to), length);  // how it went, poll() tells
  return attempt;
}

Links::Progress Links::advance(Attempt& attempt, const std::vector<std::vector<uint8_t>>& addresses) {
  const auto say = [&](int rank, int channel) {
    const Hello hello = helloTo(rank, channel, addresses);
    return ::send(attempt.socket.get(), &hello, sizeof(hello), MSG_NOSIGNAL) == static_cast<ssize_t>(sizeof(hello));
  };
  if (attempt.isConnecting) {
    int error = 0;
    socklen_t length = sizeof(error);
    getsockopt(attempt.socket.get(), SOL_SOCKET, SO_ERROR, &error, &length);
    if (error != 0 || !say(attempt.rank, attempt.channel)) return Progress::failed;
    attempt.isConnecting = false;
    return Progress::going;
  }
  char* to = reinterpret_cast<char*>(&attempt.hello) + attempt.got;
  const ssize_t got = recv(attempt.socket.get(), to, sizeof(Hello) - attempt.got, 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return Progress::going;
  if (got <= 0) return Progress::failed;
  attempt.got += static_cast<size_t>(got);
  if (attempt.got < sizeof(Hello)) return Progress::going;
  if (!isRight(attempt.hello, addresses)) return Progress::failed;
  const int rank = static_cast<int>(attempt.hello.rank), channel = static_cast<int>(attempt.hello.channel);
  if (attempt.rank >= 0) {
    if (rank != attempt.rank || channel != attempt.channel) return Progress::failed;
  } else if (rank <= options_.rank || !say(rank, channel)) {
    return Progress::failed;
  }
  sockets_[static_cast<size_t>(rank * channels_ + channel)] = std::move(attempt.socket);
  return Progress::done;
}

std::vector<int> Links::missing() const {
  std::vector<int> ranks;
  for (int r = 0; r < options_.size; r++) {
    const auto* begin = sockets_.data() + r * channels_;
    if (r != options_.rank && std::any_of(begin, begin + channels_, [](const auto& each) { return each.get() < 0; }))
      ranks.push_back(r);
  }
  return ranks;
}

void Links::connect(const std::vector<std::vector<uint8_t>>& addresses) {
  const auto deadline = Clock::now() + options_.timeout;
  std::vector<Attempt> attempts;
  for (int r = 0; r < options_.rank; r++)  // the higher rank connects
    for (int channel = 0; channel < channels_; channel++) attempts.push_back(begin(r, channel, addresses));
  for (;;) {
    const std::vector<int> absent = missing();
    if (absent.empty()) break;
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0)
      throw CommError("[comm] rank " + std::to_string(options_.rank) + " expected to connect with " +
                      ranksText(absent) + " within " + std::to_string(options_.timeout.count()) + " ms, got no answer");
    std::vector<pollfd> polled{{waker_.descriptor(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};
    for (const Attempt& attempt : attempts)
      polled.push_back({attempt.socket.get(), static_cast<short>(attempt.isConnecting ? POLLOUT : POLLIN), 0});
    if (poll(polled.data(), polled.size(), static_cast<int>(std::min<int64_t>(left, 1000))) <= 0) continue;
    if (polled[0].revents) throw CommError("[comm] connecting was interrupted");
    for (size_t i = attempts.size(); i-- > 0;) {
      if (!polled[i + 2].revents) continue;
      const Progress progress = advance(attempts[i], addresses);
      if (progress == Progress::failed && attempts[i].rank >= 0)
        throw CommError("[comm] rank " + std::to_string(options_.rank) + " expected to connect with rank " +
                        std::to_string(attempts[i].rank) + ", which refused; its process may have ended");
      if (progress != Progress::going) attempts.erase(attempts.begin() + static_cast<ptrdiff_t>(i));
    }
    if (polled[1].revents) {
      Attempt stranger;
      stranger.socket = Descriptor(accept(listener_.get(), nullptr, nullptr));
      if (stranger.socket.get() < 0) continue;
      configure(stranger.socket.get());
      const auto isStranger = [](const Attempt& attempt) { return attempt.rank < 0; };
      if (std::count_if(attempts.begin(), attempts.end(), isStranger) >= static_cast<ptrdiff_t>(maxStrangers))
        attempts.erase(std::find_if(attempts.begin(), attempts.end(), isStranger));
      attempts.push_back(std::move(stranger));
    }
  }
  listener_ = Descriptor();
}

Descriptor Links::take(int rank, int channel) {
  return std::move(sockets_[static_cast<size_t>(rank * channels_ + channel)]);
}

}  // namespace hadal
