// A decoded kernel and what runs it: a warp's registers hold 32 lanes side by side, an instruction is a function that
// works on the lanes of a mask.
#pragma once
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "ptx/module.h"

namespace hadal {
namespace ptx {

constexpr int lanes = 32;
constexpr uint32_t allLanes = 0xffffffffu;

// Where an operand's lanes lie: bytes from the start of the warp's registers, or, with this bit, of the kernel's
// constants. Numbers lie one lane after the other; a predicate is one word, a bit a lane.
using Place = uint32_t;
constexpr Place inConstants = 0x80000000u;
constexpr Place noPlace = 0x7fffffffu;

struct Warp;
struct Instruction;
using Handler = void (*)(Warp& warp, const Instruction& i, uint32_t mask);

// How the machine goes on after an instruction.
enum class Flow : uint8_t {
  next,
  branch,         // to `target`, for the lanes whose guard holds
  branchIndexed,  // to list[a]
  call,           // to `target`, coming back to the next instruction
  ret,
  exit,
  barrier,      // of the block
  gather,       // waits for the lanes that membermask `c` names, then runs
  gatherAll,    // waits for all 32 lanes, then runs
  warpBarrier,  // waits for the lanes of `c`, wherever they wait
};

struct Instruction {
  Handler run = nullptr;
  Place d = noPlace, a = noPlace, b = noPlace, c = noPlace;
  Place d2 = noPlace;              // a second result
  Place guard = noPlace;           // the predicate; always where there is none
  const uint32_t* list = nullptr;  // places of a vector's parts; targets of an indexed branch
  int64_t offset = 0;              // of an address; whatever else is constant
  uint32_t target = 0;             // instruction number
  uint32_t line = 0;               // of the text
  uint16_t form = 0;               // number of the opcode as written
  uint16_t count = 1;              // length of the list
  Flow flow = Flow::next;
  Space space = Space::generic;
  bool isGuardNegated = false;
  bool isWideAddress = true;  // 64 bits
};

struct ParameterPlace {
  uint32_t offset, bytes;
};
// Registers with the same number in all lanes or known at the start of a warp.
struct SpecialRegister {
  std::string name;
  Place place;
  int bytes;
};

struct Kernel {
  std::string name;  // mangled
  const Module* module = nullptr;
  uint32_t mostThreads = 0;
  std::vector<Instruction> code;
  uint32_t entry = 0;
  std::deque<std::vector<uint32_t>> lists;
  std::vector<std::string> forms;   // opcodes by number
  uint32_t registerBytes = 0;       // of a warp
  std::vector<uint64_t> constants;  // in places
  std::vector<SpecialRegister> specials;
  std::vector<ParameterPlace> parameters;
  uint32_t parameterBytes = 0;
  uint32_t localBytes = 0;       // of a thread, with parameters of called functions
  uint32_t sharedBytes = 0;      // static; dynamic shared memory follows at a multiple of 128
  std::vector<uint64_t> counts;  // by instruction: how many threads ran it

  // The text of an instruction, for messages.
  std::string textOf(const Instruction& i) const;
};

// Addresses that are no pointers of the host, so that generic ones say where they point: bits 48… are not 0.
constexpr uint64_t sharedWindow = 0x00f1000000000000ull, localWindow = 0x00f2000000000000ull,
                   parameterWindow = 0x00f3000000000000ull, windowMask = 0xffff000000000000ull;
// The first address in shared memory: below it lies what the system keeps on a GPU.
constexpr uint32_t sharedStart = 1024, localStart = 64;
// Of the launch's parameters, in their own space; what lies below is of called functions' parameters, in local memory.
constexpr uint32_t parameterStart = 0x40000000;

struct Dim3 {
  uint32_t x = 1, y = 1, z = 1;
  uint64_t count() const { return static_cast<uint64_t>(x) * y * z; }
};

// What all threads of a block share.
struct Block {
  const Kernel* kernel;
  std::vector<uint8_t> shared;      // from sharedStart on
  std::vector<uint8_t> parameters;  // of the launch
  Dim3 grid, index, threads;
};

// What went wrong in a lane; the machine adds kernel, line and instruction.
struct LaneError : Error {
  LaneError(int lane, const std::string& text) : Error(text), lane(lane) {}
  int lane;
};
[[noreturn]] void failLane(int lane, const char* format, ...) __attribute__((format(printf, 2, 3)));

// A copy to shared memory that is under way.
struct PendingCopy {
  uint32_t destination;
  const uint8_t* source;
  uint8_t bytes, sourceBytes, lane;
  uint32_t group;
};

// Lanes of a warp that are at the same instruction.
struct Group {
  enum State : uint8_t { ready, atBarrier, gathering } state;
  uint32_t pc, mask, barrier = 0;
};

struct Warp {
  uint8_t* base[2];  // registers, constants
  Block* block = nullptr;
  uint32_t id = 0;
  uint32_t gone = 0;  // lanes that have exited or never were
  std::vector<Group> groups;
  std::vector<uint8_t> registers, local;
  std::vector<PendingCopy> copies;
  uint32_t committed[lanes] = {};
  static constexpr int mostCalls = 8;
  uint32_t returns[mostCalls][lanes] = {};
  uint8_t calls[lanes] = {};

  template <class T>
  T* at(Place place) const {
    return reinterpret_cast<T*>(base[place >> 31] + (place & ~inConstants));
  }
  uint32_t predicate(Place place) const { return *at<uint32_t>(place); }
  void setPredicate(Place place, uint32_t mask, uint32_t bits) const {
    uint32_t& p = *at<uint32_t>(place);
    p = (p & ~mask) | (bits & mask);
  }

  // Memory behind an address in a space; fails where the access is misaligned or outside.
  uint8_t* resolve(Space space, uint64_t address, uint32_t bytes, int lane) const;
  uint8_t* resolveShared(uint64_t address, uint32_t bytes, int lane) const;
  // Lands the copies of a lane that belong to a group before `group`.
  void landCopies(int lane, uint32_t group);
};

// Calls f(lane) for the lanes of a mask; the common case, all of them, is a plain loop.
template <class F>
inline __attribute__((always_inline)) void eachLane(uint32_t mask, F f) {
  if (mask == allLanes) {
#pragma GCC ivdep
    for (int l = 0; l < lanes; l++) f(l);
  } else {
    for (uint32_t rest = mask; rest != 0; rest &= rest - 1) f(__builtin_ctz(rest));
  }
}

}  // namespace ptx
}  // namespace hadal
