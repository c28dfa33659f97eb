// Which processors a thread may use, and when.
#pragma once
#include <vector>

namespace hadal {

// Numbers of the processors that the calling thread may use; empty where the system has no way to tell.
std::vector<int> allowedProcessors();

// Binds the calling thread, and the threads it will make, to these; does nothing where there are none.
void allowProcessors(const std::vector<int>& processors);

// Lets the calling thread run only where no other one would (Linux; elsewhere it does nothing).
void giveWayToOthers();

}  // namespace hadal
