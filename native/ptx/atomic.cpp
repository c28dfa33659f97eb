// atom and red (PTX ISA 9.7.13): lane after lane, lowest first.
#include "ptx/handlers.h"

namespace hadal {
namespace ptx {
namespace {

enum class Operation { add, min, max, inc, dec, bitAnd, bitOr, bitXor, exchange, compareAndSwap };
struct OperationRow {
  const char* name;
  Operation operation;
};
constexpr OperationRow rows[] = {
    {"add", Operation::add},       {"min", Operation::min},
    {"max", Operation::max},       {"inc", Operation::inc},
    {"dec", Operation::dec},       {"and", Operation::bitAnd},
    {"or", Operation::bitOr},      {"xor", Operation::bitXor},
    {"exch", Operation::exchange}, {"cas", Operation::compareAndSwap},
};

template <class T>
T combine(Operation operation, T old, T b, T c) {
  switch (operation) {
    case Operation::add:
      return static_cast<T>(old + b);
    case Operation::min:
      return b < old ? b : old;
    case Operation::max:
      return old < b ? b : old;
    case Operation::exchange:
      return b;
    case Operation::compareAndSwap:
      return old == b ? c : old;
    default:
      break;
  }
  if constexpr (std::is_integral_v<T>) switch (operation) {
      case Operation::inc:
        return old >= b ? T{0} : static_cast<T>(old + 1);
      case Operation::dec:
        return old == 0 || old > b ? b : static_cast<T>(old - 1);
      case Operation::bitAnd:
        return old & b;
      case Operation::bitOr:
        return old | b;
      case Operation::bitXor:
        return old ^ b;
      default:
        break;
    }
  return old;
}

// target holds the operation.
template <class T>
void atomic(Warp& warp, const Instruction& i, uint32_t mask) {
  const T* const b = warp.at<T>(i.b);
  const T* const c = i.c == noPlace ? b : warp.at<T>(i.c);
  const auto operation = static_cast<Operation>(i.target);
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
    const int l = __builtin_ctz(rest);
    const uint64_t address = i.isWideAddress ? warp.at<uint64_t>(i.a)[l] + static_cast<uint64_t>(i.offset)
                                             : warp.at<uint32_t>(i.a)[l] + static_cast<uint32_t>(i.offset);
    uint8_t* const memory = warp.resolve(i.space, address, sizeof(T), l);
    T old;
    memcpy(&old, memory, sizeof(T));
    const T now = combine(operation, old, b[l], c[l]);
    memcpy(memory, &now, sizeof(T));
    if (i.d != noPlace) warp.at<T>(i.d)[l] = old;
  }
}

}  // namespace

bool decodeAtomic(Statement& s) {
  const bool isReduction = s.isFirst("red");
  if (!s.isFirst("atom") && !isReduction) return false;
  Instruction& i = s.i;
  const Type type = s.takeType();
  for (const char* const name : {"relaxed", "acquire", "release", "acq_rel", "cta", "gpu", "sys"}) s.take(name);
  if (s.take("global"))
    i.space = Space::global;
  else if (s.take("shared") || s.take("shared::cta"))
    i.space = Space::shared;
  const OperationRow* row = nullptr;
  for (const OperationRow& one : rows)
    if (!row && s.take(one.name)) row = &one;
  if (!row) s.unsupported("unknown operation");
  const bool isSwap = row->operation == Operation::compareAndSwap;
  const size_t first = isReduction ? 0 : 1, count = first + (isSwap ? 3 : 2);
  s.expectOperands(count, count);
  i.target = static_cast<uint32_t>(row->operation);
  if (!isReduction) i.d = s.destination(0, type);
  i.b = s.source(first + 1, type);
  if (isSwap) i.c = s.source(first + 2, type);
  s.address(s.operand(first));
  const bool isOfBits = row->operation >= Operation::bitAnd,
             isCount = row->operation == Operation::inc || row->operation == Operation::dec;
  switch (type) {
    case Type::u32:
      i.run = isOfBits ? nullptr : Handler(atomic<uint32_t>);
      break;
    case Type::s32:
      i.run = isOfBits || isCount ? nullptr : Handler(atomic<int32_t>);
      break;
    case Type::u64:
      i.run = isOfBits || isCount ? nullptr : Handler(atomic<uint64_t>);
      break;
    case Type::s64:
      i.run = isOfBits || isCount ? nullptr : Handler(atomic<int64_t>);
      break;
    case Type::b32:
      i.run = isOfBits ? Handler(atomic<uint32_t>) : nullptr;
      break;
    case Type::b64:
      i.run = isOfBits ? Handler(atomic<uint64_t>) : nullptr;
      break;
    case Type::f32:
      i.run = row->operation == Operation::add ? Handler(atomic<float>) : nullptr;
      break;
    case Type::f64:
      i.run = row->operation == Operation::add ? Handler(atomic<double>) : nullptr;
      break;
    default:
      break;
  }
  if (!i.run) s.unsupported("unknown form of the instruction");
  return true;
}

}  // namespace ptx
}  // namespace hadal
