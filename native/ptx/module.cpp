#include "ptx/module.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

namespace hadal {
namespace ptx {
namespace {

struct TypeRow {
  std::string_view name;
  Type type;
  int bytes;
};
constexpr TypeRow types[] = {
    {"pred", Type::pred, 0},     {"b8", Type::b8, 1},   {"b16", Type::b16, 2},   {"b32", Type::b32, 4},
    {"b64", Type::b64, 8},       {"u8", Type::u8, 1},   {"u16", Type::u16, 2},   {"u32", Type::u32, 4},
    {"u64", Type::u64, 8},       {"s8", Type::s8, 1},   {"s16", Type::s16, 2},   {"s32", Type::s32, 4},
    {"s64", Type::s64, 8},       {"f16", Type::f16, 2}, {"bf16", Type::bf16, 2}, {"f16x2", Type::f16x2, 4},
    {"bf16x2", Type::bf16x2, 4}, {"f32", Type::f32, 4}, {"f64", Type::f64, 8},
};

bool isWordStart(char c) {
  return isalpha(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%' || c == '.';
}
bool isWordPart(char c) { return isWordStart(c) || isdigit(static_cast<unsigned char>(c)); }

std::vector<Token> tokensOf(std::string_view text, const std::string& path) {
  std::vector<Token> tokens;
  tokens.reserve(text.size() / 5);
  uint32_t line = 1;
  size_t i = 0;
  const size_t n = text.size();
  const auto add = [&](Token::Kind kind, size_t from, size_t to) {
    tokens.push_back({kind, line, text.substr(from, to - from)});
    i = to;
  };
  while (i < n) {
    const char c = text[i];
    if (c == '\n') {
      line++, i++;
    } else if (c == ' ' || c == '\t' || c == '\r') {
      i++;
    } else if (text.compare(i, 2, "//") == 0) {
      i = std::min(text.find('\n', i), n);
    } else if (text.compare(i, 2, "/*") == 0) {
      const size_t end = text.find("*/", i);
      if (end == std::string_view::npos) fail("[ptx] %s:%u: a comment without end", path.c_str(), line);
      for (; i < end + 2; i++) line += text[i] == '\n';
    } else if (isWordStart(c)) {
      size_t to = i + 1;
      // Qualifiers such as .L2::128B belong to the word, a label's colon does not.
      while (to < n && (isWordPart(text[to]) || text.compare(to, 2, "::") == 0)) to += text[to] == ':' ? 2 : 1;
      add(Token::word, i, to);
    } else if (isdigit(static_cast<unsigned char>(c))) {
      size_t to = i + 1;
      const bool isBits = c == '0' && to < n && strchr("xXfFdDbB", text[to]);
      while (to < n &&
             (isalnum(static_cast<unsigned char>(text[to])) || text[to] == '.' ||
              (!isBits && (text[to] == '+' || text[to] == '-') && (text[to - 1] == 'e' || text[to - 1] == 'E'))))
        to++;
      add(Token::number, i, to);
    } else if (c == '"') {
      const size_t end = text.find('"', i + 1);
      if (end == std::string_view::npos) fail("[ptx] %s:%u: a string without end", path.c_str(), line);
      add(Token::string, i, end + 1);
    } else if (strchr("{}[]()<>,;:|@!+-=~", c)) {
      add(Token::mark, i, i + 1);
    } else {
      fail("[ptx] %s:%u: unexpected character '%c'", path.c_str(), line, c);
    }
  }
  tokens.push_back({Token::end, line, {}});
  return tokens;
}

}  // namespace

void fail(const char* format, ...) {
  char text[2048];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  throw Error(text);
}

Type typeNamed(std::string_view name) {
  for (const TypeRow& row : types)
    if (row.name == name) return row.type;
  return Type::none;
}
int bytesOf(Type type) {
  for (const TypeRow& row : types)
    if (row.type == type) return row.bytes;
  return 0;
}
bool isSigned(Type type) { return type >= Type::s8 && type <= Type::s64; }
bool isReal(Type type) { return type >= Type::f16; }

std::string readFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail("[ptx] cannot read %s", path.c_str());
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

Literal literalOf(std::string_view text) {
  const std::string copy(text);
  const char kind = copy.size() > 1 && copy[0] == '0' ? copy[1] : ' ';
  char* end = nullptr;
  Literal literal{Literal::integer, 0};
  if (kind == 'f' || kind == 'F') {
    literal = {Literal::real32, strtoull(copy.c_str() + 2, &end, 16)};
  } else if (kind == 'd' || kind == 'D') {
    literal = {Literal::real64, strtoull(copy.c_str() + 2, &end, 16)};
  } else if (kind == 'b' || kind == 'B') {
    literal.bits = strtoull(copy.c_str() + 2, &end, 2);
  } else if (copy.find('.') != std::string::npos) {
    const double value = strtod(copy.c_str(), &end);
    literal.kind = Literal::real64;
    memcpy(&literal.bits, &value, 8);
  } else {
    literal.bits = strtoull(copy.c_str(), &end, 0);
    if (*end == 'U') end++;
  }
  if (*end != 0) fail("[ptx] not a number: %s", copy.c_str());
  return literal;
}

// ---- Reader

void Reader::wrong(const char* expected) const {
  const std::string got(peek().text);
  fail("[ptx] %s:%u: expected %s, got '%s'", path.c_str(), peek().line, expected, got.c_str());
}
void Reader::expect(std::string_view text) {
  if (!accept(text)) wrong(std::string(text).c_str());
}
std::string_view Reader::word() {
  if (peek().kind != Token::word) wrong("a name");
  return take().text;
}
int64_t Reader::integer() {
  const bool isNegative = accept("-");
  if (peek().kind != Token::number) wrong("a number");
  const Literal literal = literalOf(peek().text);
  if (literal.kind != Literal::integer) wrong("an integer");
  take();
  return isNegative ? -static_cast<int64_t>(literal.bits) : static_cast<int64_t>(literal.bits);
}

Variable Reader::variable(Space space) {
  Variable variable;
  variable.space = space;
  uint32_t align = 0;
  int vector = 1;
  bool isPointer = false;  // what follows is said of the memory pointed to, and changes nothing here
  while (peek().text.starts_with(".")) {
    const std::string_view word = take().text;
    if (word == ".ptr") {
      isPointer = true;
    } else if (word == ".align") {
      const int64_t bytes = integer();
      if (!isPointer) align = static_cast<uint32_t>(bytes);
    } else if (word == ".v2" || word == ".v4") {
      vector = word[2] - '0';
    } else if (isPointer && (word == ".global" || word == ".const" || word == ".shared" || word == ".local")) {
      continue;
    } else if ((variable.type = typeNamed(word.substr(1))) == Type::none) {
      wrong("a type before");
    }
  }
  variable.name = word();
  const int size = bytesOf(variable.type);
  uint64_t count = 1;
  while (accept("[")) {
    if (accept("]")) {
      variable.isOpen = true;
      count = 0;
      continue;
    }
    count *= static_cast<uint64_t>(integer());
    expect("]");
  }
  variable.bytes = count * size * vector;
  variable.align = align ? align : static_cast<uint32_t>(std::max(1, size * vector));
  return variable;
}

// ---- Module

Module::Module(std::string filePath, std::string fileText) : path(std::move(filePath)), text(std::move(fileText)) {
  tokens = tokensOf(text, path);
  Reader reader(tokens, 0, path);
  while (reader.peek().kind != Token::end) {
    if (reader.accept(".version")) {
      reader.take();
    } else if (reader.accept(".target")) {
      do reader.word();
      while (reader.accept(","));
    } else if (reader.accept(".address_size")) {
      if (reader.integer() != 64) reader.wrong("addresses of 64 bits before");
    } else if (reader.accept(".file")) {
      while (reader.peek().kind == Token::number || reader.peek().kind == Token::string || reader.peek().is(","))
        reader.take();
    } else if (reader.accept(".visible") || reader.accept(".weak") || reader.accept(".extern")) {
      continue;
    } else if (reader.accept(".entry")) {
      readFunction(reader, true);
    } else if (reader.accept(".func")) {
      readFunction(reader, false);
    } else if (reader.accept(".global") || reader.accept(".const")) {
      readVariable(reader, Space::global, false);
    } else if (reader.accept(".shared")) {
      readVariable(reader, Space::shared, true);
    } else if (reader.accept(".section")) {  // debug information
      while (!reader.accept("}")) {
        if (reader.peek().kind == Token::end) reader.wrong("}");
        reader.take();
      }
    } else {
      reader.wrong("a directive of a module");
    }
  }
}

void Module::readFunction(Reader& reader, bool isEntry) {
  FunctionSource function;
  function.isEntry = isEntry;
  function.line = reader.peek().line;
  const auto list = [&](std::vector<Variable>& into) {
    reader.expect("(");
    if (reader.accept(")")) return;
    do {
      reader.expect(".param");
      into.push_back(reader.variable(Space::parameter));
    } while (reader.accept(","));
    reader.expect(")");
  };
  if (!isEntry && reader.peek().is("(")) list(function.returns);
  function.name = reader.word();
  if (reader.peek().is("(")) list(function.parameters);
  for (;;) {
    if (reader.accept(".maxntid")) {
      function.mostThreads = 1;
      do function.mostThreads *= static_cast<uint32_t>(reader.integer());
      while (reader.accept(","));
    } else if (reader.accept(".minnctapersm") || reader.accept(".maxnreg")) {
      reader.integer();
    } else if (!reader.accept(".noreturn")) {
      break;
    }
  }
  if (reader.accept(";")) {
    functions.try_emplace(function.name, function);  // a declaration; the body may follow
    return;
  }
  reader.expect("{");
  function.begin = reader.position();
  for (int depth = 1; depth > 0;) {
    const Token& token = reader.take();
    if (token.kind == Token::end) reader.wrong("the end of a function's body");
    if (token.is("{")) depth++;
    if (token.is("}")) depth--;
  }
  function.end = reader.position() - 1;
  functions[function.name] = function;
}

void Module::readVariable(Reader& reader, Space space, bool mayBeOpen) {
  Variable variable = reader.variable(space);
  if (variable.isOpen && !mayBeOpen) reader.wrong("a variable with a size before");
  if (space == Space::global) {
    // Aligned to 128 bytes, more than any type asks for.
    auto* memory = static_cast<uint8_t*>(aligned_alloc(128, (variable.bytes + 127) / 128 * 128 + 128));
    memset(memory, 0, variable.bytes);
    variable.contents = {memory, free};
    if (reader.accept("=")) {
      const int size = bytesOf(variable.type);
      uint64_t at = 0;
      int depth = 0;
      do {
        while (reader.accept("{")) depth++;
        const bool isNegative = reader.accept("-");
        if (reader.peek().kind != Token::number)
          reader.wrong("a number (addresses as initial values are not supported)");
        Literal literal = literalOf(reader.take().text);
        if (isNegative) literal.bits = literal.kind == Literal::integer ? -literal.bits : literal.bits ^ (1ull << 63);
        if (literal.kind == Literal::real64 && size == 4) {
          double wide;
          memcpy(&wide, &literal.bits, 8);
          const float narrow = static_cast<float>(wide);
          memcpy(&literal.bits, &narrow, 4);
        }
        if (at + size > variable.bytes) reader.wrong("fewer initial values before");
        memcpy(memory + at, &literal.bits, size);
        at += size;
        while (depth > 0 && reader.accept("}")) depth--;
      } while (reader.accept(","));
    }
  }
  reader.expect(";");
  variables[variable.name] = variable;
}

}  // namespace ptx
}  // namespace hadal
