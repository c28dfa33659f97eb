#include "ptx/decode.h"

#include <cstdio>
#include <utility>

namespace hadal {
namespace ptx {
namespace {

struct SpecialRow {
  std::string_view name;
  Type type;
};
// Set when a warp begins (machine.cpp).
constexpr SpecialRow specialRows[] = {
    {"%tid.x", Type::u32},           {"%tid.y", Type::u32},       {"%tid.z", Type::u32},
    {"%ntid.x", Type::u32},          {"%ntid.y", Type::u32},      {"%ntid.z", Type::u32},
    {"%ctaid.x", Type::u32},         {"%ctaid.y", Type::u32},     {"%ctaid.z", Type::u32},
    {"%nctaid.x", Type::u32},        {"%nctaid.y", Type::u32},    {"%nctaid.z", Type::u32},
    {"%laneid", Type::u32},          {"%warpid", Type::u32},      {"%nwarpid", Type::u32},
    {"%lanemask_eq", Type::u32},     {"%lanemask_lt", Type::u32}, {"%lanemask_le", Type::u32},
    {"%lanemask_gt", Type::u32},     {"%lanemask_ge", Type::u32}, {"%dynamic_smem_size", Type::u32},
    {"%total_smem_size", Type::u32}, {"%smid", Type::u32},        {"%nsmid", Type::u32},
};

std::string_view withoutNumber(std::string_view name) {
  size_t end = name.size();
  while (end > 0 && isdigit(static_cast<unsigned char>(name[end - 1]))) end--;
  return name.substr(0, end);
}

}  // namespace

// ---- Statement

bool Statement::take(std::string_view qualifier) {
  for (size_t n = 0; n < parts.size(); n++) {
    if (parts[n] != qualifier) continue;
    parts.erase(parts.begin() + static_cast<ptrdiff_t>(n));
    return true;
  }
  return false;
}
Type Statement::takeType() {
  const Type type = parts.empty() ? Type::none : typeNamed(parts.back());
  if (type == Type::none) unsupported("expected a type at the end");
  parts.pop_back();
  return type;
}
const Operand& Statement::operand(size_t n) const {
  if (n >= operands.size()) unsupported("too few operands");
  return operands[n];
}
void Statement::expectOperands(size_t least, size_t most) const {
  if (operands.size() < least || operands.size() > most) unsupported("wrong number of operands");
}
void Statement::unsupported(const char* why) const {
  const std::string text = decoder.kernel.textOf(i);
  fail("[ptx] %s:%u: %s: %s", decoder.module.path.c_str(), line, why, text.c_str());
}
std::optional<Register> Statement::registerOf(std::string_view name) const { return decoder.registerOf(name); }

Place Statement::sourceOf(const Operand& operand, Type type) const {
  const int bytes = bytesOf(type);
  if (operand.kind == Operand::name && !operand.isNegated && operand.offset == 0) {
    const auto found = registerOf(operand.text);
    if (found) {
      if (bytesOf(found->type) != bytes) unsupported("a register of another size");
      return found->place;
    }
    unsupported("not a register");
  }
  if (operand.kind != Operand::literal) unsupported("not an operand for this place");
  const Literal& value = operand.value;
  if (bytes == 0) return decoder.predicateConstant(value.bits != 0);
  if (value.kind == Literal::integer) {
    if (type == Type::f32 || type == Type::f64) unsupported("an integer where a fraction is expected");
    return decoder.constant(bytes == 8 ? value.bits : value.bits & ((1ull << (bytes * 8)) - 1), bytes);
  }
  if (value.kind == Literal::real32) {
    if (bytes != 4) unsupported("a literal of another size");
    return decoder.constant(value.bits, 4);
  }
  if (type == Type::f32) {
    double wide;
    memcpy(&wide, &value.bits, 8);
    const float narrow = static_cast<float>(wide);
    uint32_t bits;
    memcpy(&bits, &narrow, 4);
    return decoder.constant(bits, 4);
  }
  if (bytes != 8) unsupported("a literal of another size");
  return decoder.constant(value.bits, 8);
}

Place Statement::destinationOf(const Operand& operand, Type type) const {
  if (operand.kind == Operand::sink) return decoder.placeFor(bytesOf(type));
  const auto found = operand.kind == Operand::name ? registerOf(operand.text) : std::nullopt;
  if (!found) unsupported("not a register to write");
  if (bytesOf(found->type) != bytesOf(type)) unsupported("a register of another size");
  return found->place;
}

Place Statement::wideSource(const Operand& operand, Type type, int& registerBytes) const {
  if (operand.kind == Operand::name)
    if (const auto found = registerOf(operand.text)) {
      registerBytes = bytesOf(found->type);
      if (registerBytes < bytesOf(type)) unsupported("a register of fewer bits than the type");
      return found->place;
    }
  registerBytes = std::max(2, bytesOf(type));
  if (bytesOf(type) == 1 && operand.kind == Operand::literal) return decoder.constant(operand.value.bits & 0xffff, 2);
  return sourceOf(operand, type);
}
Place Statement::wideDestination(const Operand& operand, Type type, int& registerBytes) const {
  if (operand.kind == Operand::sink) {
    registerBytes = std::max(2, bytesOf(type));
    return decoder.placeFor(registerBytes);
  }
  const auto found = operand.kind == Operand::name ? registerOf(operand.text) : std::nullopt;
  if (!found) unsupported("not a register to write");
  registerBytes = bytesOf(found->type);
  if (registerBytes < bytesOf(type)) unsupported("a register of fewer bits than the type");
  return found->place;
}

Place Statement::predicateSource(const Operand& operand, bool& isNegated) const {
  isNegated = operand.isNegated;
  if (operand.kind == Operand::literal) return decoder.predicateConstant(operand.value.bits != 0);
  const auto found = operand.kind == Operand::name ? registerOf(operand.text) : std::nullopt;
  if (!found || found->type != Type::pred) unsupported("not a predicate");
  return found->place;
}

void Statement::address(const Operand& operand) {
  if (operand.kind != Operand::address) unsupported("not an address");
  const Operand& at = operand.parts[0];
  i.isWideAddress = true;
  if (at.kind == Operand::literal) {
    i.a = decoder.constant(at.value.bits, 8);
    return;
  }
  i.offset = at.offset;
  if (const auto found = registerOf(at.text)) {
    if (bytesOf(found->type) < 4) unsupported("an address of fewer than 32 bits");
    i.a = found->place;
    i.isWideAddress = bytesOf(found->type) == 8;
    return;
  }
  const auto symbol = decoder.symbolOf(at.text);
  if (!symbol) unsupported("not a register or symbol");
  // A parameter of a called function lies in local memory.
  if (i.space == Space::parameter && symbol->space == Space::local) i.space = Space::local;
  if (symbol->space != i.space) unsupported("a symbol of another state space");
  i.a = decoder.constant(symbol->address, 8);
}

int64_t Statement::integer(size_t n) const {
  const Operand& o = operand(n);
  if (o.kind != Operand::literal || o.value.kind != Literal::integer) unsupported("expected an integer constant");
  return static_cast<int64_t>(o.value.bits);
}
const uint32_t* Statement::list(std::vector<uint32_t> places) const {
  decoder.kernel.lists.push_back(std::move(places));
  return decoder.kernel.lists.back().data();
}

// ---- Places

Place Decoder::placeFor(int bytes) {
  const uint32_t step = bytes == 0 ? 4 : static_cast<uint32_t>(bytes) * lanes;
  if (bytes != 0) kernel.registerBytes = (kernel.registerBytes + 31) / 32 * 32;
  const Place place = kernel.registerBytes;
  kernel.registerBytes += step;
  return place;
}
Place Decoder::constant(uint64_t bits, int bytes) {
  const auto [found, isNew] = constantPlaces.try_emplace({bits, bytes}, 0);
  if (!isNew) return found->second;
  const size_t at = kernel.constants.size() * 8;
  const size_t words = bytes == 0 ? 1 : static_cast<size_t>(bytes) * lanes / 8;
  kernel.constants.resize(kernel.constants.size() + words);
  auto* memory = reinterpret_cast<uint8_t*>(kernel.constants.data()) + at;
  if (bytes == 0) memcpy(memory, &bits, 4);
  for (int l = 0; l < lanes && bytes != 0; l++) memcpy(memory + l * bytes, &bits, static_cast<size_t>(bytes));
  return found->second = static_cast<Place>(at) | inConstants;
}
uint32_t Decoder::localVariable(uint64_t bytes, uint32_t align) {
  kernel.localBytes = (kernel.localBytes + align - 1) / align * align;
  const uint32_t at = kernel.localBytes;
  kernel.localBytes += static_cast<uint32_t>(bytes);
  return at + localStart;
}

std::optional<Register> Decoder::special(std::string_view name) {
  for (const SpecialRow& row : specialRows) {
    if (row.name != name) continue;
    const int bytes = bytesOf(row.type);
    for (const SpecialRegister& one : kernel.specials)
      if (one.name == name) return Register{row.type, one.place};
    kernel.specials.push_back({std::string(name), placeFor(bytes), bytes});
    return Register{row.type, kernel.specials.back().place};
  }
  return std::nullopt;
}

std::optional<Register> Decoder::registerOf(std::string_view name) {
  const std::string_view prefix = withoutNumber(name);
  for (auto scope = scopes.rbegin(); scope != scopes.rend(); ++scope) {
    if (const auto found = scope->registers.find(name); found != scope->registers.end()) return found->second;
    if (prefix.size() == name.size() || scope->ranges.empty()) continue;
    if (const auto found = scope->ranges.find(prefix); found != scope->ranges.end()) {
      const Range& range = found->second;
      const auto n = static_cast<uint32_t>(std::stoul(std::string(name.substr(prefix.size()))));
      if (n < range.count) return Register{range.type, range.first + n * range.step};
    }
  }
  return name.starts_with("%") ? special(name) : std::nullopt;
}

std::optional<Symbol> Decoder::symbolOf(std::string_view name) {
  for (auto scope = scopes.rbegin(); scope != scopes.rend(); ++scope)
    if (const auto found = scope->symbols.find(name); found != scope->symbols.end()) return found->second;
  const auto found = module.variables.find(name);
  if (found == module.variables.end()) return std::nullopt;
  const Variable& variable = found->second;
  if (variable.space == Space::global)
    return Symbol{Space::global, reinterpret_cast<uint64_t>(variable.contents.get()), variable.bytes};
  // Shared: static variables first, as they come up; dynamic memory begins behind all of them (see decodeEntry).
  if (variable.isOpen) {
    if (variable.align > 128) fail("[ptx] %s: shared memory aligned to %u", module.path.c_str(), variable.align);
    return Symbol{Space::shared, sharedStart + kernel.sharedBytes, 0};
  }
  return Symbol{Space::shared, sharedAddresses.at(name), variable.bytes};
}

// ---- Declarations

void Decoder::declareRegisters(Reader& reader) {
  const std::string_view word = reader.word();
  const Type type = typeNamed(word.substr(1));
  if (type == Type::none)
    fail("[ptx] %s:%u: registers of type %s", module.path.c_str(), reader.peek().line, std::string(word).c_str());
  const int bytes = std::max(type == Type::pred ? 0 : 2, bytesOf(type));
  const Type held = bytes == 2 && bytesOf(type) == 1 ? Type::b16 : type;
  do {
    const std::string_view name = reader.word();
    if (reader.accept("<")) {
      const auto count = static_cast<uint32_t>(reader.integer());
      reader.expect(">");
      const Place first = placeFor(bytes);
      const uint32_t step = bytes == 0 ? 4 : static_cast<uint32_t>(bytes) * lanes;
      if (count > 1) kernel.registerBytes += (count - 1) * step;
      scopes.back().ranges[name] = {count, held, first, step};
    } else {
      scopes.back().registers[name] = {held, placeFor(bytes)};
    }
  } while (reader.accept(","));
  reader.expect(";");
}

void Decoder::declareVariable(Reader& reader, Space space) {
  const Variable variable = reader.variable(space);
  if (variable.isOpen || (space != Space::local && space != Space::parameter)) reader.wrong("a local variable before");
  scopes.back().symbols[variable.name] = {Space::local, localVariable(variable.bytes, variable.align), variable.bytes};
  reader.expect(";");
}

// ---- Functions

void Decoder::decodeEntry(const FunctionSource& entry) {
  kernel.name = entry.name;
  kernel.module = &module;
  kernel.mostThreads = entry.mostThreads;
  for (const auto& [name, variable] : module.variables) {
    if (variable.space != Space::shared || variable.isOpen) continue;
    kernel.sharedBytes = (kernel.sharedBytes + variable.align - 1) / variable.align * variable.align;
    sharedAddresses[name] = sharedStart + kernel.sharedBytes;
    kernel.sharedBytes += static_cast<uint32_t>(variable.bytes);
  }
  kernel.sharedBytes = (kernel.sharedBytes + 127) / 128 * 128;
  scopes.emplace_back();
  for (const Variable& parameter : entry.parameters) {
    kernel.parameterBytes = (kernel.parameterBytes + parameter.align - 1) / parameter.align * parameter.align;
    kernel.parameters.push_back({kernel.parameterBytes, static_cast<uint32_t>(parameter.bytes)});
    scopes.back().symbols[parameter.name] = {Space::parameter, parameterStart + kernel.parameterBytes, parameter.bytes};
    kernel.parameterBytes += static_cast<uint32_t>(parameter.bytes);
  }
  const std::vector<Scope> outer = std::exchange(scopes, {});
  decodeCalled(entry);
  scopes = outer;
  kernel.entry = static_cast<uint32_t>(kernel.code.size());
  decodeBody(entry);
  kernel.counts.assign(kernel.code.size(), 0);
  kernel.registerBytes = (kernel.registerBytes + 255) / 256 * 256;
}

// Called functions come before their callers in the code: threads in them run before those that wait behind the call.
void Decoder::decodeCalled(const FunctionSource& caller) {
  for (size_t n = caller.begin; n < caller.end; n++)
    if (const Token& token = module.tokens[n]; token.kind == Token::word && module.functions.count(token.text))
      function(token.text, token.line);
}

Decoder::Function& Decoder::function(std::string_view name, uint32_t line) {
  const std::string text(name);
  for (const std::string_view one : callPath)
    if (one == name) fail("[ptx] %s:%u: recursion of %s is not supported", module.path.c_str(), line, text.c_str());
  if (const auto found = called.find(name); found != called.end()) return found->second;
  const auto source = module.functions.find(name);
  if (source == module.functions.end() || source->second.end == 0 || source->second.isEntry)
    fail("[ptx] %s:%u: call of %s, whose body is not in the file", module.path.c_str(), line, text.c_str());
  callPath.push_back(name);
  decodeCalled(source->second);
  Function made;
  made.source = &source->second;
  const std::vector<Scope> outer = std::exchange(scopes, {});
  scopes.emplace_back();
  const auto declare = [&](const std::vector<Variable>& variables, std::vector<Symbol>& into) {
    for (const Variable& one : variables) {
      into.push_back({Space::local, localVariable(one.bytes, one.align), one.bytes});
      scopes.back().symbols[one.name] = into.back();
    }
  };
  declare(made.source->returns, made.returns);
  declare(made.source->parameters, made.parameters);
  made.start = static_cast<uint32_t>(kernel.code.size());
  decodeBody(*made.source);
  scopes = outer;
  callPath.pop_back();
  return called[name] = made;
}

void Decoder::decodeBody(const FunctionSource& source) {
  labels.clear(), branchTargets.clear(), fixups.clear(), indexedFixups.clear();
  Reader reader(module.tokens, source.begin, module.path);
  scopes.emplace_back();
  const size_t depth = scopes.size();
  while (reader.position() < source.end) decodeStatement(reader);
  if (scopes.size() != depth)
    fail("[ptx] %s: unbalanced braces in %s", module.path.c_str(), std::string(source.name).c_str());
  scopes.pop_back();
  Instruction last;  // where the text does not end with a return
  last.flow = source.isEntry ? Flow::exit : Flow::ret;
  last.line = reader.peek().line;
  last.form = formOf("ret");
  emit(last);
  const auto find = [&](std::string_view label, uint32_t line) {
    const auto found = labels.find(label);
    if (found == labels.end()) fail("[ptx] %s:%u: no label %s", module.path.c_str(), line, std::string(label).c_str());
    return found->second;
  };
  for (const Fixup& one : fixups) {
    Instruction& i = kernel.code[one.instruction];
    i.target = find(one.label, i.line);
  }
  for (const auto& [number, name] : indexedFixups) {
    Instruction& i = kernel.code[number];
    const auto found = branchTargets.find(name);
    if (found == branchTargets.end())
      fail("[ptx] %s:%u: no .branchtargets %s", module.path.c_str(), i.line, std::string(name).c_str());
    std::vector<uint32_t> targets;
    for (const std::string_view label : found->second) targets.push_back(find(label, i.line));
    i.count = static_cast<uint16_t>(targets.size());
    kernel.lists.push_back(std::move(targets));
    i.list = kernel.lists.back().data();
  }
}

// ---- Statements

uint16_t Decoder::formOf(std::string_view opcode) {
  const auto [form, isNew] = formNumbers.try_emplace(opcode, static_cast<uint16_t>(kernel.forms.size()));
  if (isNew) kernel.forms.emplace_back(opcode);
  return form->second;
}

Operand Decoder::readOperand(Reader& reader) {
  Operand operand;
  if (reader.accept("{") || reader.peek().is("(")) {
    const bool isCall = reader.accept("(");
    operand.kind = Operand::vector;
    if (reader.accept(isCall ? ")" : "}")) return operand;
    do operand.parts.push_back(readOperand(reader));
    while (reader.accept(","));
    reader.expect(isCall ? ")" : "}");
    return operand;
  }
  if (reader.accept("[")) {
    operand.kind = Operand::address;
    operand.parts.push_back(readOperand(reader));
    reader.expect("]");
    return operand;
  }
  if (reader.accept("!")) {
    operand.isNegated = true;
    operand.text = reader.word();
    return operand;
  }
  const bool isMinus = reader.accept("-");
  if (reader.peek().kind == Token::number) {
    operand.kind = Operand::literal;
    operand.value = literalOf(reader.take().text);
    if (isMinus) {
      if (operand.value.kind == Literal::integer) operand.value.bits = -operand.value.bits;
      if (operand.value.kind == Literal::real32) operand.value.bits ^= 1ull << 31;
      if (operand.value.kind == Literal::real64) operand.value.bits ^= 1ull << 63;
    }
    return operand;
  }
  if (isMinus) reader.wrong("a number");
  operand.text = reader.word();
  if (operand.text == "_") operand.kind = Operand::sink;
  if (reader.accept("|")) operand.pair = reader.word();
  if (reader.accept("+")) operand.offset = reader.integer();
  if (reader.peek().is("-")) operand.offset = reader.integer();
  return operand;
}

void Decoder::readPragma(Reader& reader) {
  const std::string text(reader.take().text);
  const std::string usedBytes = "\"used_bytes_mask ";
  if (text.starts_with(usedBytes))
    usedBytesMask =
        static_cast<uint32_t>(literalOf(text.substr(usedBytes.size(), text.size() - usedBytes.size() - 1)).bits);
  else if (text != "\"nounroll\"")
    fail("[ptx] %s:%u: unknown .pragma %s", module.path.c_str(), reader.peek().line, text.c_str());
  reader.expect(";");
}

void Decoder::decodeStatement(Reader& reader) {
  if (reader.accept("{")) {
    scopes.emplace_back();
    return;
  }
  if (reader.accept("}")) {
    scopes.pop_back();
    return;
  }
  if (reader.accept(";")) return;
  if (reader.accept(".reg")) return declareRegisters(reader);
  if (reader.accept(".local")) return declareVariable(reader, Space::local);
  if (reader.accept(".param")) return declareVariable(reader, Space::parameter);
  if (reader.accept(".pragma")) return readPragma(reader);
  if (reader.accept(".loc")) {  // a line of the source
    const uint32_t line = reader.peek().line;
    while (reader.peek().line == line) reader.take();
    return;
  }
  if (reader.peek(1).is(":")) {
    const std::string_view name = reader.word();
    reader.expect(":");
    if (reader.accept(".branchtargets")) {
      auto& targets = branchTargets[name];
      do targets.push_back(reader.word());
      while (reader.accept(","));
      reader.expect(";");
      return;
    }
    if (!labels.try_emplace(name, static_cast<uint32_t>(kernel.code.size())).second)
      fail("[ptx] %s:%u: a second label %s", module.path.c_str(), reader.peek().line, std::string(name).c_str());
    return;
  }
  Statement s(*this, reader.peek().line);
  if (reader.accept("@")) {
    s.i.isGuardNegated = reader.accept("!");
    const std::string_view name = reader.word();
    const auto guard = registerOf(name);
    if (!guard || guard->type != Type::pred) reader.wrong("a predicate before");
    s.i.guard = guard->place;
  }
  s.opcode = reader.word();
  for (size_t from = 0; from <= s.opcode.size();) {
    // Dots part qualifiers.
    const size_t to = std::min(s.opcode.find('.', from), s.opcode.size());
    s.parts.push_back(s.opcode.substr(from, to - from));
    from = to + 1;
  }
  s.head = s.parts.front();
  s.parts.erase(s.parts.begin());
  if (!reader.peek().is(";")) {
    do s.operands.push_back(readOperand(reader));
    while (reader.accept(","));
  }
  if (!reader.peek().is(";")) reader.wrong(";");
  reader.take();
  s.i.form = formOf(s.opcode);
  bool isDone = false;
  decodeFlow(s, isDone);
  if (isDone) return;
  const bool isKnown = decodeInteger(s) || decodeReal(s) || decodeCompare(s) || decodeConvert(s) || decodeMove(s) ||
                       decodeMemory(s) || decodeAtomic(s) || decodeCooperation(s) || decodeMatrix(s);
  if (!isKnown) s.unsupported("unknown instruction");
  if (!s.parts.empty()) s.unsupported(("unknown qualifier ." + std::string(s.parts.front())).c_str());
  if (usedBytesMask) s.unsupported("used_bytes_mask before what is no load");
  emit(s.i);
}

void Decoder::decodeFlow(Statement& s, bool& isDone) {
  isDone = true;
  if (s.isFirst("bra")) {
    s.take("uni");
    s.expectOperands(1, 1);
    s.i.flow = Flow::branch;
    fixups.push_back({static_cast<uint32_t>(kernel.code.size()), s.operand(0).text});
  } else if (s.isFirst("brx")) {
    s.take("uni");
    if (!s.take("idx")) s.unsupported("unknown instruction");
    s.expectOperands(2, 2);
    s.i.flow = Flow::branchIndexed;
    s.i.a = s.source(0, Type::u32);
    indexedFixups.emplace_back(static_cast<uint32_t>(kernel.code.size()), s.operand(1).text);
  } else if (s.isFirst("ret")) {
    s.take("uni");
    s.i.flow = callPath.empty() ? Flow::exit : Flow::ret;
  } else if (s.isFirst("exit")) {
    s.i.flow = Flow::exit;
  } else if (s.isFirst("call")) {
    s.take("uni");
    decodeCall(s);
  } else {
    isDone = false;
    return;
  }
  if (!s.parts.empty()) s.unsupported("unknown qualifier");
  emit(s.i);
}

// Parameters are copied through local memory: arguments before the call, results behind it.
void Decoder::decodeCall(Statement& s) {
  size_t n = 0;
  std::vector<Operand> results, arguments;
  if (s.operand(n).kind == Operand::vector) results = s.operand(n++).parts;
  const std::string_view name = s.operand(n++).text;
  if (n < s.operands.size()) arguments = s.operand(n++).parts;
  if (n != s.operands.size()) s.unsupported("indirect calls are not supported");
  const auto found = called.find(name);
  if (found == called.end()) s.unsupported("the body of the function is not in the file");
  const Function& callee = found->second;
  if (results.size() != callee.returns.size() || arguments.size() != callee.parameters.size())
    s.unsupported("another number of parameters than the function has");
  const auto copy = [&](const Operand& outer, const Symbol& inner, bool isArgument) {
    const auto symbol = symbolOf(outer.text);
    if (!symbol || symbol->space != Space::local || symbol->bytes != inner.bytes)
      s.unsupported("a parameter that is no .param variable of the same size");
    Instruction i = s.i;
    i.flow = Flow::next;
    i.run = [](Warp& warp, const Instruction& one, uint32_t mask) {
      const uint64_t from = one.a, to = one.d;
      eachLane(mask, [&](int l) {
        memcpy(warp.resolve(Space::local, to, 1, l), warp.resolve(Space::local, from, 1, l),
               static_cast<size_t>(one.offset));
      });
    };
    i.offset = static_cast<int64_t>(inner.bytes);
    i.a = static_cast<Place>(isArgument ? symbol->address : inner.address);
    i.d = static_cast<Place>(isArgument ? inner.address : symbol->address);
    return i;
  };
  for (size_t k = 0; k < arguments.size(); k++) emit(copy(arguments[k], callee.parameters[k], true));
  s.i.flow = Flow::call;
  s.i.target = callee.start;
  if (results.empty()) return;
  const Instruction after = copy(results[0], callee.returns[0], false);
  emit(s.i);
  s.i = after;  // emitted by decodeFlow
}

}  // namespace ptx
}  // namespace hadal
