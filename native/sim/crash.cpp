#include "sim/crash.h"

#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstdint>

#include "sim/sanitizers.h"
#include "sim/worker.h"

namespace hadal {
namespace sim {
namespace {

constexpr size_t signalStackBytes = 64 * 1024;  // the fault may be that the stack is full
struct sigaction previous[2];
thread_local const void* faultAddress = nullptr;

[[noreturn]] void endLaunch() { fault({}, "access to memory that is not there, at %p", faultAddress); }

// Goes on in endLaunch(), at the top of the stack whose frames are left for good.
void onFault(int signal, siginfo_t* information, void* context) {
  if (!worker) {
    const struct sigaction& before = previous[signal == SIGBUS];
    if (before.sa_flags & SA_SIGINFO) return before.sa_sigaction(signal, information, context);
    if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) return before.sa_handler(signal);
    sigaction(signal, &before, nullptr);  // happens again, and ends the process
    return;
  }
  faultAddress = information->si_addr;
  const Stack& stack = *worker->self().stack;
  const uintptr_t top = (reinterpret_cast<uintptr_t>(stack.low) + stack.bytes - 64) / 16 * 16;
  auto& machine = static_cast<ucontext_t*>(context)->uc_mcontext;
#if defined(__x86_64__)
  machine.gregs[REG_RSP] = static_cast<greg_t>(top - 8);
  machine.gregs[REG_RIP] = static_cast<greg_t>(reinterpret_cast<uintptr_t>(&endLaunch));
#else
  machine.sp = top;
  machine.pc = reinterpret_cast<uintptr_t>(&endLaunch);
#endif
}

}  // namespace

void catchCrashes() {
  if (hasAddressSanitizer() || hasThreadSanitizer()) return;  // they say more
  stack_t stack{};
  sigaltstack(nullptr, &stack);
  if (stack.ss_flags & SS_DISABLE) {
    stack = {};
    stack.ss_size = signalStackBytes;
    stack.ss_sp = mmap(nullptr, signalStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack.ss_sp != MAP_FAILED) sigaltstack(&stack, nullptr);
  }
  static const bool isInstalled = [] {
    struct sigaction action {};
    action.sa_sigaction = onFault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    return sigaction(SIGSEGV, &action, &previous[0]) == 0 && sigaction(SIGBUS, &action, &previous[1]) == 0;
  }();
  (void)isInstalled;
}

}  // namespace sim
}  // namespace hadal
