// From a function's tokens to instructions. What is not understood is an error with file, line and text: nothing is
// skipped.
#pragma once
#include <functional>
#include <optional>
#include <unordered_map>
#include <utility>

#include "ptx/kernel.h"

namespace hadal {
namespace ptx {

struct Operand {
  enum Kind : uint8_t { name, literal, vector, address, sink } kind = name;
  std::string_view text;            // of a register or symbol
  std::string_view pair;            // p of d|p
  bool isNegated = false;           // !p
  Literal value{};                  // of a literal
  int64_t offset = 0;               // name + offset
  std::vector<Operand> parts = {};  // of a vector; an address is the first part
};

struct Register {
  Type type;
  Place place;
};

class Decoder;

// One instruction on its way: the families of instructions (decode…() below) take from it what they know, and what is
// left is an error.
class Statement {
 public:
  Statement(Decoder& decoder, uint32_t line) : decoder(decoder), line(line) { i.line = line; }

  std::string_view opcode;              // as written
  std::vector<std::string_view> parts;  // qualifiers not taken yet
  std::vector<Operand> operands;
  Instruction i;

  bool take(std::string_view qualifier);
  Type takeType();  // the last qualifier
  bool isFirst(std::string_view name) const { return head == name; }
  std::string_view head;  // add of add.s32

  // Places of operands, checked against the size an instruction asks for.
  Place source(size_t n, Type type) const { return sourceOf(operand(n), type); }
  Place destination(size_t n, Type type) const { return destinationOf(operand(n), type); }
  Place sourceOf(const Operand& operand, Type type) const;
  Place destinationOf(const Operand& operand, Type type) const;
  // Registers that may be wider than the type; says how many bytes they have.
  Place wideSource(const Operand& operand, Type type, int& registerBytes) const;
  Place wideDestination(const Operand& operand, Type type, int& registerBytes) const;
  Place predicateSource(const Operand& operand, bool& isNegated) const;
  // Sets a, isWideAddress, offset of an address in a space.
  void address(const Operand& operand);
  int64_t integer(size_t n) const;

  const Operand& operand(size_t n) const;
  void expectOperands(size_t least, size_t most) const;
  const uint32_t* list(std::vector<uint32_t> places) const;
  std::optional<Register> registerOf(std::string_view name) const;
  [[noreturn]] void unsupported(const char* why) const;

  Decoder& decoder;
  uint32_t line;
};

// Each says whether the instruction is of its family, and then has set i; fails where it is and is not understood.
bool decodeInteger(Statement& s);
bool decodeReal(Statement& s);
bool decodeCompare(Statement& s);
bool decodeConvert(Statement& s);
bool decodeMove(Statement& s);
bool decodeMemory(Statement& s);
bool decodeAtomic(Statement& s);
bool decodeCooperation(Statement& s);
bool decodeMatrix(Statement& s);

// A symbol with an address: of shared memory, global memory, local memory, or a parameter.
struct Symbol {
  Space space;
  uint64_t address;
  uint64_t bytes;
};

class Decoder {
 public:
  Decoder(const Module& module, Kernel& kernel) : module(module), kernel(kernel) {}
  void decodeEntry(const FunctionSource& entry);

  Place constant(uint64_t bits, int bytes);  // in all lanes
  Place predicateConstant(bool value) { return constant(value ? allLanes : 0, 0); }
  std::optional<Register> registerOf(std::string_view name);
  std::optional<Symbol> symbolOf(std::string_view name);
  Place placeFor(int bytes);
  // Of `.pragma "used_bytes_mask …"`: which bytes of the next load matter; 0 for all.
  uint32_t takeUsedBytes() { return std::exchange(usedBytesMask, 0); }

  const Module& module;
  Kernel& kernel;

 private:
  struct Range {
    uint32_t count;
    Type type;
    Place first;
    uint32_t step;
  };
  struct Scope {
    std::unordered_map<std::string_view, Register> registers;
    std::unordered_map<std::string_view, Range> ranges;
    std::unordered_map<std::string_view, Symbol> symbols;
  };
  struct Function {
    const FunctionSource* source = nullptr;
    uint32_t start = 0;
    std::vector<Symbol> parameters, returns;
  };
  struct Fixup {
    uint32_t instruction;
    std::string_view label;
  };

  Function& function(std::string_view name, uint32_t line);
  void decodeCalled(const FunctionSource& caller);
  uint16_t formOf(std::string_view opcode);
  void decodeBody(const FunctionSource& source);
  void declareRegisters(Reader& reader);
  void declareVariable(Reader& reader, Space space);
  void readPragma(Reader& reader);
  void decodeStatement(Reader& reader);
  void decodeFlow(Statement& s, bool& isDone);
  void decodeCall(Statement& s);
  Operand readOperand(Reader& reader);
  void emit(const Instruction& i) { kernel.code.push_back(i); }
  uint32_t localVariable(uint64_t bytes, uint32_t align);
  std::optional<Register> special(std::string_view name);

  std::vector<Scope> scopes;
  std::map<std::string_view, Function> called;
  std::vector<std::string_view> callPath;  // being decoded: a name that comes again is recursion
  std::unordered_map<std::string_view, uint32_t> labels;
  std::unordered_map<std::string_view, std::vector<std::string_view>> branchTargets;
  std::vector<Fixup> fixups;
  std::vector<std::pair<uint32_t, std::string_view>> indexedFixups;
  std::map<std::pair<uint64_t, int>, Place> constantPlaces;
  std::unordered_map<std::string_view, uint16_t> formNumbers;
  std::map<std::string_view, uint32_t> sharedAddresses;
  uint32_t usedBytesMask = 0;
};

}  // namespace ptx
}  // namespace hadal
