// hadal-ptx: the interpreter by itself.
//
//   hadal-ptx check <folder>         decodes every kernel; prints how many, and the opcodes they use
//   hadal-ptx names <folder>         every entry, mangled and readable
//   hadal-ptx find <folder> <name>   the entry that the name of a launch means
//   hadal-ptx run <file.ptx>         runs what standard input says, writes the buffers to standard output
//
// A run's input: lines `kernel <name>`, `grid x y z`, `threads x y z`, `shared <bytes>`, `buffer <bytes>`, `value
// <bytes>` and `gate` (the arguments in order; the last is what hadal's kernels take first, and open), then `data` and
// the bytes of all buffers and values. Buffers are aligned to 128 bytes.
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <set>
#include <sstream>

#include "ptx/decode.h"
#include "ptx/library.h"
#include "ptx/machine.h"

using namespace hadal::ptx;

namespace {

int check(const std::string& folder) {
  Library library(folder);
  int failures = 0;
  std::set<std::string> forms;
  size_t instructions = 0;
  const std::vector<std::string> entries = library.entries();
  for (const std::string& entry : entries) {
    try {
      const Kernel& kernel = library.entry(entry);
      forms.insert(kernel.forms.begin(), kernel.forms.end());
      instructions += kernel.code.size();
    } catch (const Error& error) {
      fprintf(stderr, "%s\n", error.what());
      failures++;
    }
  }
  printf("%zu kernels, %zu instructions, %zu forms\n", entries.size(), instructions, forms.size());
  for (const std::string& form : forms) printf("%s\n", form.c_str());
  return failures > 0;
}

struct Memory {
  std::vector<uint8_t> bytes;
  uint8_t* start;
  size_t size;
  bool isBuffer;
  uint64_t pointer;
};

constexpr size_t gateMark = ~size_t{0};

int run(const std::string& path) {
  const Module module(path, readFile(path));
  std::string name;
  Dim3 grid, threads;
  size_t shared = 0;
  std::vector<Memory> memory;
  for (std::string line; std::getline(std::cin, line) && line != "data";) {
    std::istringstream words(line);
    std::string word;
    words >> word;
    size_t bytes = 0;
    if (word == "kernel") words >> name;
    if (word == "grid") words >> grid.x >> grid.y >> grid.z;
    if (word == "threads") words >> threads.x >> threads.y >> threads.z;
    if (word == "shared") words >> shared;
    if (word == "gate") memory.push_back({{}, nullptr, gateMark, false, 0});
    if (word == "buffer" || word == "value")
      words >> bytes, memory.push_back({{}, nullptr, bytes, word == "buffer", 0});
  }
  // A predicate, none; a fault, not raised; the number of the instruction.
  static const uint64_t noFault[8] = {};
  const uint64_t gate[3] = {0, reinterpret_cast<uint64_t>(noFault), 0};
  std::vector<Argument> arguments;
  for (Memory& one : memory) {
    if (one.size == gateMark) {
      arguments.push_back({gate, sizeof(gate)});
      continue;
    }
    one.bytes.resize(one.size + 128);
    one.start = one.bytes.data() + (128 - reinterpret_cast<uintptr_t>(one.bytes.data()) % 128) % 128;
    std::cin.read(reinterpret_cast<char*>(one.start), static_cast<std::streamsize>(one.size));
    one.pointer = reinterpret_cast<uint64_t>(one.start);
    arguments.push_back(one.isBuffer ? Argument{&one.pointer, 8} : Argument{one.start, one.size});
  }
  const auto function = module.functions.find(name);
  if (function == module.functions.end() || !function->second.isEntry)
    fail("[ptx] %s: no entry %s", path.c_str(), name.c_str());
  Kernel kernel;
  Decoder(module, kernel).decodeEntry(function->second);
  Machine machine;
  machine.run(kernel, grid, threads, shared, arguments);
  for (const Memory& one : memory)
    if (one.isBuffer) fwrite(one.start, 1, one.size, stdout);
  if (getenv("HADAL_PTX_COUNT"))
    fprintf(stderr, "%llu instructions\n", static_cast<unsigned long long>(machine.executed()));
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  const std::string command = count > 1 ? arguments[1] : "";
  try {
    if (command == "check" && count == 3) return check(arguments[2]);
    if (command == "run" && count == 3) return run(arguments[2]);
    if (command == "names" && count == 3) {
      for (const std::string& entry : Library(arguments[2]).entries())
        printf("%s\t%s\n", entry.c_str(), nameOfEntry(entry).text().c_str());
      return 0;
    }
    if (command == "find" && count == 4) {
      printf("%s\n", Library(arguments[2]).find(arguments[3]).name.c_str());
      return 0;
    }
  } catch (const std::exception& error) {
    fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  fprintf(stderr, "hadal-ptx: expected check <folder>, names <folder>, find <folder> <name> or run <file>\n");
  return 2;
}
