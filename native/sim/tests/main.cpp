// Runs cases of the host executor, each in a process of its own: planted faults end in sanitizers' reports and crashes.
//   hadal-sim-tests planted|primitives [name…]
// Prints a JSON object a line: {"name", "isCaught", "text"}.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "sim/sanitizers.h"
#include "trial.h"

namespace {

using hadal::cuda::Case;

std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    if (c == '\n')
      result += "\\n";
    else if (static_cast<unsigned char>(c) >= ' ')
      result += c;
  }
  return result + "\"";
}

// Everything that the case printed, and how it ended.
std::string runAlone(const Case& c, bool& isCaught) {
  int ends[2];
  if (pipe(ends) != 0) return "no pipe";
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], 1);
    dup2(ends[1], 2);
    close(ends[0]);
    alarm(60);  // a hang is a fault, too
    hadal::cuda::Trial trial;
    c.run(trial);
    const std::string outcome = trial.outcome();
    std::printf("%s", outcome.c_str());
    std::fflush(stdout);
    _exit(outcome.empty() ? 0 : 1);
  }
  close(ends[1]);
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = read(ends[0], buffer, sizeof(buffer))) > 0;) text.append(buffer, static_cast<size_t>(n));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFSIGNALED(status)) text += std::string("\nkilled: ") + strsignal(WTERMSIG(status));
  isCaught = !text.empty() || status != 0;
  return text;
}

__device__ void nothing() {}

// ThreadSanitizer takes long to make a fiber. The cases' processes have those of this one, which has no other OS thread.
void makeFibers() {
  hadal::cuda::Trial trial;
  hadal::cuda::launch<nothing, 512>(trial.context, {});
  trial.synchronize();
}

}  // namespace

int main(int count, char** arguments) {
  const bool isPlanted = count > 1 && !std::strcmp(arguments[1], "planted");
  if (count < 2 || (!isPlanted && std::strcmp(arguments[1], "primitives"))) {
    std::fprintf(stderr, "expected planted or primitives, and names of cases\n");
    return 2;
  }
  if (hadal::sim::hasThreadSanitizer()) makeFibers();
  for (const Case& c : isPlanted ? hadal::cuda::plantedFaults() : hadal::cuda::primitiveCases()) {
    if (count > 2 && std::none_of(arguments + 2, arguments + count, [&](char* a) { return !std::strcmp(a, c.name); }))
      continue;
    bool isCaught = false;
    const std::string text = runAlone(c, isCaught);
    std::printf("{\"name\":\"%s\",\"isCaught\":%s,\"text\":%s}\n", c.name, isCaught ? "true" : "false",
                quoted(text).c_str());
  }
}
