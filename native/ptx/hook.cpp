// Puts the interpreter in the host executor's place when HADAL_SIM_PTX names a folder of .ptx files. With
// HADAL_SIM_PTX_REPORT, a file gets a line for every kernel when it is first used (`kernel <number> <name> <opcodes>`)
// and for every launch (`launch <number> <instructions>`): a process may be ended at any time.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "ptx/library.h"
#include "ptx/machine.h"
#include "sim/interpreter-hook.h"

namespace hadal {
namespace ptx {
namespace {

class Interpreter {
 public:
  Interpreter() : library(getenv("HADAL_SIM_PTX")) {
    if (const char* const path = getenv("HADAL_SIM_PTX_REPORT")) report = fopen(path, "a");
  }
  void run(const char* name, sim::LaunchGrid grid, int threads, const std::vector<Argument>& arguments) {
    Kernel& kernel = library.find(name);
    const uint64_t before = machine.executed();
    machine.run(kernel, {grid.x, grid.y, grid.z}, {static_cast<uint32_t>(threads)}, grid.sharedBytes, arguments);
    if (!report) return;
    const auto [found, isNew] = numbers.try_emplace(&kernel, numbers.size());
    std::string lines;
    const std::string number = std::to_string(getpid()) + "-" + std::to_string(found->second);
    if (isNew) {
      lines += "kernel " + number + " " + kernel.name;
      for (const std::string& form : kernel.forms) lines += " " + form;
      lines += "\n";
    }
    lines += "launch " + number + " " + std::to_string(machine.executed() - before) + "\n";
    fputs(lines.c_str(), report);
    fflush(report);
  }

 private:
  Library library;
  Machine machine;
  FILE* report = nullptr;
  std::map<const Kernel*, size_t> numbers;
};

bool run(const char* name, sim::LaunchGrid grid, int threads, void* const* pointers, const size_t* bytes, int count) {
  static std::unique_ptr<Interpreter> interpreter;
  try {
    if (!interpreter) interpreter = std::make_unique<Interpreter>();
    std::vector<Argument> arguments;
    for (int n = 0; n < count; n++) arguments.push_back({pointers[n], bytes[n]});
    interpreter->run(name, grid, threads, arguments);
    return true;
  } catch (const std::exception& error) {
    sim::setInterpreterError(error.what());
    return false;
  }
}

__attribute__((constructor)) void install() {
  if (getenv("HADAL_SIM_PTX")) sim::setInterpreter(run);
}

}  // namespace
}  // namespace ptx
}  // namespace hadal
