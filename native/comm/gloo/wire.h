// What a TCP connection has carried.
#pragma once
#include "core/process-group.h"

namespace hadal {

WireBytes wireBytesOf(int socket);

}  // namespace hadal
