// An access to memory that is not there, by a kernel, is a launch that failed, as on a GPU; elsewhere it stays what it is.
#pragma once

namespace hadal {
namespace sim {

// For the calling OS thread; the first call also does what is done once.
void catchCrashes();

}  // namespace sim
}  // namespace hadal
