// The text of a .ptx file: tokens, variables at module level, functions with their parameters and where their bodies
// lie. Bodies are decoded (decode.h) when a kernel is first asked for.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace hadal {
namespace ptx {

// What is wrong with a text or a launch; the message is for people.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

enum class Type : uint8_t {
  none,
  pred,
  b8,
  b16,
  b32,
  b64,
  u8,
  u16,
  u32,
  u64,
  s8,
  s16,
  s32,
  s64,
  f16,
  f16x2,
  bf16,
  bf16x2,
  f32,
  f64
};
Type typeNamed(std::string_view name);  // "f32"; none if there is no such type
int bytesOf(Type type);                 // of a lane; a predicate has 0
bool isSigned(Type type);
bool isReal(Type type);

enum class Space : uint8_t { generic, global, shared, local, parameter };

struct Token {
  enum Kind : uint8_t { word, number, string, mark, end } kind;
  uint32_t line;
  std::string_view text;
  bool is(std::string_view other) const { return text == other && kind != string; }
};

struct Variable {
  std::string_view name;
  Space space = Space::global;
  Type type = Type::b8;
  uint32_t align = 1;
  uint64_t bytes = 0;
  bool isOpen = false;                  // extern, without a size: dynamic shared memory
  std::shared_ptr<uint8_t[]> contents;  // of variables in global and constant memory
};

struct FunctionSource {
  std::string_view name;
  bool isEntry = false;
  std::vector<Variable> returns, parameters;
  uint32_t mostThreads = 0;  // .maxntid; 0 where it is not said
  uint32_t line = 0;
  size_t begin = 0, end = 0;  // tokens of the body, without its braces
};

// Reads tokens one after the other.
class Reader {
 public:
  Reader(const std::vector<Token>& tokens, size_t at, const std::string& path) : tokens(tokens), at(at), path(path) {}
  const Token& peek(size_t ahead = 0) const { return tokens[std::min(at + ahead, tokens.size() - 1)]; }
  const Token& take() { return tokens[std::min(at++, tokens.size() - 1)]; }
  bool accept(std::string_view text) { return peek().is(text) ? (at++, true) : false; }
  void expect(std::string_view text);
  std::string_view word();
  int64_t integer();               // with its sign
  Variable variable(Space space);  // from its alignment on: `.align 4 .b8 name[24]`
  size_t position() const { return at; }
  void skipTo(size_t position) { at = position; }
  [[noreturn]] void wrong(const char* expected) const;

 private:
  const std::vector<Token>& tokens;
  size_t at;
  const std::string& path;
};

struct Module {
  Module(std::string path, std::string text);

  std::string path, text;
  std::vector<Token> tokens;
  std::map<std::string_view, FunctionSource> functions;
  std::map<std::string_view, Variable> variables;

 private:
  void readFunction(Reader& reader, bool isEntry);
  void readVariable(Reader& reader, Space space, bool isOpen);
};

// The bits of a literal: an integer, 0f… (32 bits), 0d… (64 bits), or a decimal fraction (as a double).
struct Literal {
  enum Kind { integer, real32, real64 } kind;
  uint64_t bits;
};
Literal literalOf(std::string_view text);

std::string readFile(const std::string& path);

}  // namespace ptx
}  // namespace hadal
