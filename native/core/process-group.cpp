#include "core/process-group.h"

namespace hadal {

ProcessGroup::~ProcessGroup() = default;

}  // namespace hadal
