#include "ptx/machine.h"

#include <algorithm>
#include <cstdarg>

namespace hadal {
namespace ptx {
namespace {

// A warp gives way to the others after so many instructions, and lanes that are furthest behind to others: a thread
// that waits for another one to write memory would keep it from running for ever.
constexpr uint64_t slice = 1 << 20;
constexpr uint64_t patience = 1 << 16;

uint32_t firstThreadLanes(uint64_t count) { return count >= lanes ? allLanes : (1u << count) - 1; }

}  // namespace

void failLane(int lane, const char* format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  throw LaneError(lane, text);
}

std::string Kernel::textOf(const Instruction& i) const {
  size_t from = 0;
  for (uint32_t line = 1; line < i.line && from != std::string::npos; line++) {
    from = module->text.find('\n', from);
    if (from != std::string::npos) from++;
  }
  if (from == std::string::npos) return "";
  std::string text;
  for (const char c : module->text.substr(from, std::min(module->text.find('\n', from), module->text.size()) - from)) {
    const bool isBlank = c == ' ' || c == '\t' || c == '\r';
    if (!isBlank || (!text.empty() && text.back() != ' ')) text += isBlank ? ' ' : c;
  }
  if (text.size() > 200) text = text.substr(0, 200) + "…";
  return text;
}

// ---- Memory

uint8_t* Warp::resolveShared(uint64_t address, uint32_t bytes, int lane) const {
  if (address % bytes != 0)
    failLane(lane, "misaligned access of %u bytes at shared address %llu", bytes,
             static_cast<unsigned long long>(address));
  const uint64_t at = address - sharedStart;
  if (address < sharedStart || at + bytes > block->shared.size())
    failLane(lane, "access of %u bytes at byte %lld of shared memory, which has %zu", bytes, static_cast<long long>(at),
             block->shared.size());
  return block->shared.data() + at;
}

uint8_t* Warp::resolve(Space space, uint64_t address, uint32_t bytes, int lane) const {
  const auto shown = static_cast<unsigned long long>(address);
  switch (space) {
    case Space::shared:
      return resolveShared(address, bytes, lane);
    case Space::parameter:
      if (address >= parameterStart) {
        const uint64_t at = address - parameterStart;
        if (at + bytes > block->parameters.size() || at % bytes != 0)
          failLane(lane, "access of %u bytes at byte %llu of the parameters, which have %zu", bytes,
                   static_cast<unsigned long long>(at), block->parameters.size());
        return block->parameters.data() + at;
      }
      [[fallthrough]];
    case Space::local: {
      if (address % bytes != 0) failLane(lane, "misaligned access of %u bytes at local address %llu", bytes, shown);
      const uint64_t at = address - localStart, each = block->kernel->localBytes;
      if (address < localStart || at + bytes > each)
        failLane(lane, "access of %u bytes at byte %lld of local memory, which has %llu", bytes,
                 static_cast<long long>(at), static_cast<unsigned long long>(each));
      return const_cast<uint8_t*>(local.data()) + static_cast<size_t>(lane) * each + at;
    }
    case Space::generic:
      if ((address & windowMask) == sharedWindow) return resolveShared(address & ~windowMask, bytes, lane);
      if ((address & windowMask) == localWindow) return resolve(Space::local, address & ~windowMask, bytes, lane);
      if ((address & windowMask) == parameterWindow)
        return resolve(Space::parameter, address & ~windowMask, bytes, lane);
      [[fallthrough]];
    case Space::global:
      if (address % bytes != 0) failLane(lane, "misaligned access of %u bytes at address 0x%llx", bytes, shown);
      if (address < 4096 || (address >> 47) != 0)
        failLane(lane, "access of %u bytes at 0x%llx, which is no address of global memory", bytes, shown);
      return reinterpret_cast<uint8_t*>(address);
  }
  return nullptr;
}

void Warp::landCopies(int lane, uint32_t group) {
  size_t kept = 0;
  for (const PendingCopy& copy : copies) {
    if (copy.lane != lane || copy.group >= group) {
      copies[kept++] = copy;
      continue;
    }
    uint8_t* const to = block->shared.data() + copy.destination;
    if (copy.sourceBytes) memcpy(to, copy.source, copy.sourceBytes);
    memset(to + copy.sourceBytes, 0, static_cast<size_t>(copy.bytes) - copy.sourceBytes);
  }
  copies.resize(kept);
}

// ---- Errors

void Machine::failAt(const Kernel& kernel, const Warp& warp, uint32_t pc, int lane, const std::string& why) const {
  const Instruction& i = kernel.code[pc];
  const std::string where = lane < 0 ? "" : ", thread " + std::to_string(warp.id * lanes + static_cast<uint32_t>(lane));
  throw Error("[ptx] " + why + "\n  " + kernel.name + "\n  block (" + std::to_string(block.index.x) + ", " +
              std::to_string(block.index.y) + ", " + std::to_string(block.index.z) + ")" + where + "\n  " +
              kernel.module->path + ":" + std::to_string(i.line) + ": " + kernel.textOf(i));
}

void Machine::failDeadlock(const Kernel& kernel) const {
  std::string list;
  int shown = 0;
  const Warp* first = nullptr;
  uint32_t pc = 0;
  for (const Warp& warp : warps)
    for (const Group& group : warp.groups) {
      if (!first) first = &warp, pc = group.pc;
      if (shown++ >= 8) continue;
      const Instruction& i = kernel.code[group.pc];
      char text[96];
      snprintf(text, sizeof(text), "\n  warp %u, lanes 0x%08x wait at line %u: ", warp.id, group.mask, i.line);
      list += text + kernel.textOf(i);
    }
  if (shown > 8) list += "\n  and " + std::to_string(shown - 8) + " more";
  failAt(kernel, *first, pc, -1, "deadlock: no thread of the block can go on" + list);
}

// ---- Launches

void Machine::run(Kernel& kernel, Dim3 grid, Dim3 threads, size_t dynamicSharedBytes,
                  const std::vector<Argument>& arguments) {
  const std::string& path = kernel.module->path;
  if (threads.count() == 0 || threads.count() > 1024 || (kernel.mostThreads && threads.count() > kernel.mostThreads))
    fail("[ptx] %s: a launch of %s with %llu threads a block, which allows %u", path.c_str(), kernel.name.c_str(),
         static_cast<unsigned long long>(threads.count()), kernel.mostThreads ? kernel.mostThreads : 1024);
  if (arguments.size() != kernel.parameters.size())
    fail("[ptx] %s: %zu arguments for %s, which has %zu parameters", path.c_str(), arguments.size(),
         kernel.name.c_str(), kernel.parameters.size());
  block = Block{&kernel, {}, std::vector<uint8_t>(kernel.parameterBytes), grid, {}, threads};
  for (size_t n = 0; n < arguments.size(); n++) {
    if (arguments[n].bytes != kernel.parameters[n].bytes)
      fail("[ptx] %s: argument %zu of %s has %zu bytes, expected %u", path.c_str(), n, kernel.name.c_str(),
           arguments[n].bytes, kernel.parameters[n].bytes);
    memcpy(block.parameters.data() + kernel.parameters[n].offset, arguments[n].data, arguments[n].bytes);
  }
  block.shared.resize(kernel.sharedBytes + dynamicSharedBytes);
  warps.resize((threads.count() + lanes - 1) / lanes);
  for (Warp& warp : warps) {
    warp.registers.resize(kernel.registerBytes + 64);
    warp.local.resize(static_cast<size_t>(kernel.localBytes) * lanes);
    // Aligned for the vector instructions of the host.
    uint8_t* const start = warp.registers.data();
    warp.base[0] = start + (64 - reinterpret_cast<uintptr_t>(start) % 64) % 64;
    warp.base[1] = const_cast<uint8_t*>(reinterpret_cast<const uint8_t*>(kernel.constants.data()));
    warp.block = &block;
  }
  for (uint32_t z = 0; z < grid.z; z++)
    for (uint32_t y = 0; y < grid.y; y++)
      for (uint32_t x = 0; x < grid.x; x++) {
        block.index = {x, y, z};
        for (uint32_t n = 0; n < warps.size(); n++) beginWarp(kernel, warps[n], n, dynamicSharedBytes);
        runBlock(kernel);
      }
}

void Machine::beginWarp(const Kernel& kernel, Warp& warp, uint32_t id, size_t dynamicSharedBytes) {
  // What nobody has written is NaN, or -1.
  memset(warp.base[0], 0xff, kernel.registerBytes);
  std::fill(warp.local.begin(), warp.local.end(), uint8_t{0xff});
  const uint64_t count = block.threads.count() - static_cast<uint64_t>(id) * lanes;
  const uint32_t present = firstThreadLanes(count);
  warp.id = id;
  warp.gone = ~present;
  warp.groups = {{Group::ready, kernel.entry, present}};
  warp.copies.clear();
  memset(warp.committed, 0, sizeof(warp.committed));
  memset(warp.calls, 0, sizeof(warp.calls));
  const Dim3 &threads = block.threads, &grid = block.grid, &index = block.index;
  for (const SpecialRegister& special : kernel.specials) {
    const std::string_view name = special.name;
    for (uint32_t l = 0; l < lanes; l++) {
      const uint32_t thread = id * lanes + l, own = 1u << l;
      uint32_t value = 0;
      if (name == "%tid.x") value = thread % threads.x;
      if (name == "%tid.y") value = thread / threads.x % threads.y;
      if (name == "%tid.z") value = thread / threads.x / threads.y;
      if (name == "%ntid.x") value = threads.x;
      if (name == "%ntid.y") value = threads.y;
      if (name == "%ntid.z") value = threads.z;
      if (name == "%ctaid.x") value = index.x;
      if (name == "%ctaid.y") value = index.y;
      if (name == "%ctaid.z") value = index.z;
      if (name == "%nctaid.x") value = grid.x;
      if (name == "%nctaid.y") value = grid.y;
      if (name == "%nctaid.z") value = grid.z;
      if (name == "%laneid") value = l;
      if (name == "%warpid") value = id;
      if (name == "%nwarpid") value = static_cast<uint32_t>(warps.size());
      if (name == "%lanemask_eq") value = own;
      if (name == "%lanemask_lt") value = own - 1;
      if (name == "%lanemask_le") value = own | (own - 1);
      if (name == "%lanemask_gt") value = ~(own | (own - 1));
      if (name == "%lanemask_ge") value = ~(own - 1);
      if (name == "%dynamic_smem_size") value = static_cast<uint32_t>(dynamicSharedBytes);
      if (name == "%total_smem_size") value = static_cast<uint32_t>(block.shared.size());
      if (name == "%nsmid") value = 1;
      warp.at<uint32_t>(special.place)[l] = value;
    }
  }
}

void Machine::runBlock(Kernel& kernel) {
  std::fill(block.shared.begin(), block.shared.end(), uint8_t{0xff});
  for (Barrier& barrier : barriers) barrier = {};
  running = static_cast<uint32_t>(block.threads.count());
  for (bool isFinished = false; !isFinished;) {
    isFinished = true;
    bool isMoving = false;
    for (Warp& warp : warps) {
      if (warp.groups.empty()) continue;
      const uint64_t before = total;
      const Pause pause = runWarp(kernel, warp);
      if (pause != Pause::finished) isFinished = false;
      if (pause != Pause::waits || total != before) isMoving = true;
    }
    if (!isFinished && !isMoving) failDeadlock(kernel);
  }
}

Machine::Pause Machine::runWarp(Kernel& kernel, Warp& warp) {
  const Instruction* const code = kernel.code.data();
  uint64_t* const counts = kernel.counts.data();
  uint64_t steps = 0, sinceTurn = 0;
  for (;;) {
    // The group that is furthest behind, together with all lanes at its instruction.
    std::vector<Group>& groups = warp.groups;
    if (groups.empty()) return Pause::finished;
    size_t chosen = groups.size();
    for (size_t n = 0; n < groups.size(); n++) {
      if (groups[n].state != Group::ready) continue;
      const bool isTurn = sinceTurn > patience;  // of those who have waited
      if (chosen == groups.size() || (isTurn ? groups[n].pc > groups[chosen].pc : groups[n].pc < groups[chosen].pc))
        chosen = n;
    }
    if (chosen == groups.size()) return Pause::waits;
    if (steps > slice) return Pause::sliced;
    if (sinceTurn > patience) sinceTurn = 0;
    Group group = groups[chosen];
    groups.erase(groups.begin() + static_cast<ptrdiff_t>(chosen));
    uint32_t stop = ~0u;  // where the next group waits
    size_t kept = 0;
    for (const Group& other : groups) {
      if (other.state == Group::ready && other.pc == group.pc) {
        group.mask |= other.mask;
        continue;
      }
      if (other.state == Group::ready && other.pc > group.pc) stop = std::min(stop, other.pc);
      groups[kept++] = other;
    }
    groups.resize(kept);
    const bool isAlone = groups.empty();
    const auto park = [&](uint32_t pc, uint32_t mask) { groups.push_back({Group::ready, pc, mask}); };

    uint32_t pc = group.pc;
    const uint32_t active = group.mask;
    const uint64_t began = steps;
    try {
      for (bool isGoing = true; isGoing;) {
        const Instruction& i = code[pc];
        uint32_t mask = active;
        if (i.guard != noPlace) mask &= i.isGuardNegated ? ~warp.predicate(i.guard) : warp.predicate(i.guard);
        const auto width = static_cast<uint32_t>(__builtin_popcount(mask));
        counts[pc] += width;
        total += width;
        steps++;
        if (i.flow == Flow::next) {
          if (mask) i.run(warp, i, mask);
          pc++;
        } else if (i.flow == Flow::branch) {
          if (mask == active) {
            pc = i.target;
          } else if (mask == 0) {
            pc++;
          } else {
            park(i.target, mask), park(pc + 1, active & ~mask);
            break;
          }
        } else {
          // All others may part the lanes: those whose guard does not hold go on.
          if (active & ~mask) park(pc + 1, active & ~mask);
          if (mask == 0) break;
          group.pc = pc, group.mask = mask;
          switch (i.flow) {
            case Flow::branchIndexed: {
              const auto* const index = warp.at<uint32_t>(i.a);
              for (uint32_t rest = mask; rest != 0;) {
                const int first = __builtin_ctz(rest);
                if (index[first] >= i.count)
                  failLane(first, "branch to number %u of %u targets", index[first], i.count);
                uint32_t same = 0;
                for (int l = 0; l < lanes; l++) same |= (rest >> l & 1 && index[l] == index[first] ? 1u : 0u) << l;
                park(i.list[index[first]], same);
                rest &= ~same;
              }
              break;
            }
            case Flow::call:
              eachLane(mask, [&](int l) {
                if (warp.calls[l] == Warp::mostCalls) failLane(l, "calls are nested too deeply");
                warp.returns[warp.calls[l]++][l] = pc + 1;
              });
              park(i.target, mask);
              break;
            case Flow::ret:
              for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
                const int l = __builtin_ctz(rest);
                park(warp.returns[--warp.calls[l]][l], 1u << l);
              }
              break;
            case Flow::exit:
              leave(warp, mask);
              break;
            case Flow::barrier:
              arrive(kernel, warp, group, i);
              break;
            case Flow::warpBarrier:
              gatherWarpBarrier(kernel, warp, group, i);
              break;
            default:
              gather(warp, group, i);
          }
          break;
        }
        // Others are behind, or here: choose anew.
        if (!isAlone && (pc >= stop || steps - began > patience)) isGoing = false;
        if (isAlone && steps - began > slice) isGoing = false;
        if (!isGoing) park(pc, active);
      }
    } catch (const LaneError& error) {
      failAt(kernel, warp, pc, error.lane, error.what());
    }
    sinceTurn = groups.size() > 1 ? sinceTurn + (steps - began) : 0;
  }
}

void Machine::leave(Warp& warp, uint32_t mask) {
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) warp.landCopies(__builtin_ctz(rest), ~0u);
  warp.gone |= mask;
  running -= static_cast<uint32_t>(__builtin_popcount(mask));
  // Those who waited for these lanes look again.
  for (Group& group : warp.groups)
    if (group.state == Group::gathering) group.state = Group::ready;
  releaseBarriers();
}

// ---- Barriers of the block

bool Machine::arrive(Kernel& kernel, Warp& warp, Group& group, const Instruction& i) {
  const uint32_t* const ids = warp.at<uint32_t>(i.a);
  const int first = __builtin_ctz(group.mask);
  const uint32_t id = ids[first];
  if (id >= barrierCount) failLane(first, "barrier %u, of 16", id);
  const uint32_t wanted = i.b == noPlace ? 0 : warp.at<uint32_t>(i.b)[first];
  Barrier& barrier = barriers[id];
  if (barrier.arrived > 0 && barrier.wanted != wanted) failLane(first, "barrier %u with another count of threads", id);
  for (Group& other : warp.groups) {
    if (other.state != Group::atBarrier || other.barrier != id) continue;
    // .aligned: all threads of a warp execute the same one.
    if (other.pc != group.pc)
      failLane(first, "a divergent barrier: lanes 0x%08x of the warp wait at line %u, lanes 0x%08x come here",
               other.mask, kernel.code[other.pc].line, group.mask);
  }
  barrier.wanted = wanted;
  barrier.arrived += static_cast<uint32_t>(__builtin_popcount(group.mask));
  group.state = Group::atBarrier;
  group.barrier = id;
  warp.groups.push_back(group);
  releaseBarriers();
  return true;
}

void Machine::releaseBarriers() {
  for (uint32_t id = 0; id < barrierCount; id++) {
    Barrier& barrier = barriers[id];
    if (barrier.arrived == 0 || barrier.arrived < (barrier.wanted ? barrier.wanted : running)) continue;
    barrier = {};
    for (Warp& warp : warps)
      for (Group& group : warp.groups)
        if (group.state == Group::atBarrier && group.barrier == id) group.state = Group::ready, group.pc++;
  }
}

// ---- Instructions of several lanes of a warp

bool Machine::gather(Warp& warp, Group& group, const Instruction& i) {
  std::vector<Group>& groups = warp.groups;
  size_t kept = 0;
  for (const Group& other : groups) {
    if (other.state == Group::gathering && other.pc == group.pc)
      group.mask |= other.mask;
    else
      groups[kept++] = other;
  }
  groups.resize(kept);
  const auto park = [&](Group::State state, uint32_t pc, uint32_t mask) {
    if (mask) groups.push_back({state, pc, mask});
  };
  if (i.flow == Flow::gatherAll) {
    if (group.mask != allLanes) {
      const int first = __builtin_ctz(group.mask);
      if (warp.gone) failLane(first, "lanes 0x%08x of the warp have exited, and this takes all 32", warp.gone);
      park(Group::gathering, group.pc, group.mask);
      return false;
    }
    i.run(warp, i, allLanes);
    park(Group::ready, group.pc + 1, allLanes);
    return true;
  }
  uint32_t waiting = 0;
  const uint32_t* const members = warp.at<uint32_t>(i.c);
  for (uint32_t rest = group.mask; rest != 0;) {
    const int first = __builtin_ctz(rest);
    const uint32_t wanted = members[first];
    uint32_t same = 0;
    for (uint32_t one = rest; one != 0; one &= one - 1) {
      const int l = __builtin_ctz(one);
      if (!(members[l] >> l & 1)) failLane(l, "the lane is not in its own mask 0x%08x", members[l]);
      if (members[l] == wanted) same |= 1u << l;
    }
    rest &= ~same;
    if (wanted & ~warp.gone & ~same) {
      waiting |= same;
      continue;
    }
    i.run(warp, i, same);
    park(Group::ready, group.pc + 1, same);
  }
  park(Group::gathering, group.pc, waiting);
  return waiting == 0;
}

bool Machine::gatherWarpBarrier(Kernel& kernel, Warp& warp, Group& group, const Instruction& i) {
  const uint32_t* const members = warp.at<uint32_t>(i.c);
  const int first = __builtin_ctz(group.mask);
  const uint32_t wanted = members[first];
  for (uint32_t rest = group.mask; rest != 0; rest &= rest - 1) {
    const int l = __builtin_ctz(rest);
    if (!(members[l] >> l & 1)) failLane(l, "the lane is not in its own mask 0x%08x", members[l]);
    if (members[l] == wanted) continue;
    // Lanes of another mask wait on their own.
    group.mask &= ~(1u << l);
    warp.groups.push_back({Group::ready, group.pc, 1u << l});
  }
  group.state = Group::gathering;
  warp.groups.push_back(group);
  uint32_t present = 0;
  const auto isMember = [&](const Group& other) {
    const Instruction& at = kernel.code[other.pc];
    return other.state == Group::gathering && at.flow == Flow::warpBarrier &&
           warp.at<uint32_t>(at.c)[__builtin_ctz(other.mask)] == wanted;
  };
  for (const Group& other : warp.groups)
    if (isMember(other)) present |= other.mask;
  if (wanted & ~warp.gone & ~present) return false;
  for (Group& other : warp.groups)
    if (isMember(other)) other.state = Group::ready, other.pc++;
  return true;
}

}  // namespace ptx
}  // namespace hadal
