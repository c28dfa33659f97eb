#include "comm/gloo/wire.h"

// The kernel's header, which knows the counts and does not go together with the C library's.
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

namespace hadal {

WireBytes wireBytesOf(int socket) {
  tcp_info info{};
  socklen_t length = sizeof(info);
  if (getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &length) != 0) return {};
  return {static_cast<int64_t>(info.tcpi_bytes_sent), static_cast<int64_t>(info.tcpi_bytes_received)};
}

}  // namespace hadal
