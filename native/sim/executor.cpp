#include "sim/executor.h"

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <numeric>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "sim/worker.h"

namespace hadal {
namespace sim {
namespace {

std::mutex reportMutex;
std::string& lastReport() {
  static auto& text = *new std::string;
  return text;
}

struct Turns {
  Order order = Order::forward;
  uint64_t seed = 1;
  bool isSet = false;

  bool set(const char* text) {
    std::string name = text;
    seed = 1;
    if (name.starts_with("random:")) {
      seed = std::strtoull(text + 7, nullptr, 10);
      name = "random";
    }
    if (name == "forward")
      order = Order::forward;
    else if (name == "reverse")
      order = Order::reverse;
    else if (name == "random")
      order = Order::random;
    else
      return false;
    return isSet = true;
  }
};
Turns& turns() {
  static Turns t;
  if (!t.isSet) {
    const char* text = std::getenv("HADAL_SIM_ORDER");
    if (!t.set(text && *text ? text : "forward")) {
      std::fprintf(stderr, "[cuda-sim] expected HADAL_SIM_ORDER=forward, reverse, random or random:<seed>, got %s\n",
                   text);
      std::abort();
    }
  }
  return t;
}

uint64_t mix(uint64_t a, uint64_t b) {
  Random r{a * 0x9e3779b97f4a7c15 ^ b};
  return static_cast<uint64_t>(r.below(0xffffffffu)) << 32 | r.below(0xffffffffu);
}

// The blocks of one launch, shared out to the OS threads.
struct Job {
  const Launch& launch;
  Order order;
  uint64_t seed;
  bool counts;
  int64_t blocks;
  std::vector<uint32_t> permutation{};  // in random order
  std::atomic<int64_t> next{0};
  // The failed block that comes first stands, so that the report is the same however blocks are shared out.
  std::atomic<int64_t> failedAt{INT64_MAX};
  std::string report{};
  MatrixLoads loads{};
  std::mutex mutex{};

  void work(Worker& w) {
    w.loads = {};
    for (;;) {
      const int64_t at = next.fetch_add(1);
      if (at >= blocks || at > failedAt) break;
      const int64_t i = order == Order::forward   ? at
                        : order == Order::reverse ? blocks - 1 - at
                        : permutation.empty()     ? at
                                                  : permutation[static_cast<size_t>(at)];
      const auto& grid = launch.grid;
      const Index block{static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
                        static_cast<unsigned>(i / grid.x / grid.y)};
      if (w.runBlock(launch, block, order, order == Order::random ? mix(seed, i) : 0, counts)) continue;
      std::lock_guard lock(mutex);
      if (at < failedAt) {
        failedAt = at;
        report = w.report();
      }
    }
    w.endLaunch();
    if (!counts) return;
    std::lock_guard lock(mutex);
    loads.count += w.loads.count;
    loads.matrices += w.loads.matrices;
    loads.wavefronts += w.loads.wavefronts;
    loads.worst = std::max(loads.worst, w.loads.worst);
  }
};

// OS threads that wait for launches of several blocks. They live as long as the process.
class Team {
 public:
  Team() {
    int count = static_cast<int>(std::thread::hardware_concurrency());
    if (const char* text = std::getenv("HADAL_SIM_THREADS")) count = std::atoi(text);
    if (hasThreadSanitizer()) count = 1;  // its fibers are this OS thread's
    count = std::clamp(count, 1, 16);
    for (int i = 1; i < count; i++) std::thread([this] { loop(); }).detach();
    helpers_ = count - 1;
  }

  void run(Job& job) {
    // Waking a thread takes as long as some thousand threads of a kernel.
    const bool shares = helpers_ > 0 && job.blocks > 1 && job.blocks * job.launch.threads >= 4096;
    if (shares) {
      std::lock_guard lock(mutex_);
      job_ = &job;
      round_++;
      waiting_ = helpers_;
      begun_.notify_all();
    }
    job.work(mine_);
    if (!shares) return;
    std::unique_lock lock(mutex_);
    ended_.wait(lock, [this] { return waiting_ == 0; });
    job_ = nullptr;
  }

 private:
  void loop() {
    Worker w;
    int64_t seen = 0;
    std::unique_lock lock(mutex_);
    for (;;) {
      begun_.wait(lock, [&] { return round_ != seen; });
      seen = round_;
      Job& job = *job_;
      lock.unlock();
      job.work(w);
      lock.lock();
      if (--waiting_ == 0) ended_.notify_one();
    }
  }

  Worker mine_;
  std::mutex mutex_;
  std::condition_variable begun_, ended_;
  Job* job_ = nullptr;
  int64_t round_ = 0;
  int helpers_ = 0, waiting_ = 0;
};

// ---- The log: a line a kind of launch

const char* logPath() {
  static const char* path = [] {
    const char* text = std::getenv("HADAL_SIM_LOG");
    return text && *text ? text : nullptr;
  }();
  return path;
}

void log(const Launch& launch, const MatrixLoads& loads) {
  static auto& seen = *new std::set<std::string>;
  const auto& g = launch.grid;
  const auto blocks = static_cast<uint64_t>(g.x) * g.y * g.z;
  const int sizeClass = 63 - __builtin_clzll(blocks);
  std::string name;
  for (const char* c = launch.name; *c; c++) {
    if (*c == '"' || *c == '\\') name += '\\';
    name += *c;
  }
  std::string line = format(
      "\"threads\":%d,\"log2Blocks\":%d,\"sharedBytes\":%zu,\"isBeyond99KiB\":%s,"
      "\"matrixLoads\":%s,\"worstWavefrontsPerMatrix\":%d}",
      launch.threads, sizeClass, g.sharedBytes, g.sharedBytes > 99 * 1024 ? "true" : "false",
      loads.count > 0 ? "true" : "false", loads.worst);
  line = "{\"kernel\":\"" + name + "\"," + line;
  if (!seen.insert(line).second) return;
  if (FILE* file = std::fopen(logPath(), "a")) {
    std::fprintf(file, "%s\n", line.c_str());
    std::fclose(file);
  }
}

std::mutex launchMutex;
Interpreter interpreter = nullptr;
std::string& interpreterError() {
  static auto& text = *new std::string;
  return text;
}

}  // namespace

Order order() { return turns().order; }
bool setOrder(const char* text) { return turns().set(text); }
uint32_t draw(uint32_t count) {
  static Random random{turns().seed};
  return random.below(count);
}

void setReport(const char* text) {
  std::lock_guard lock(reportMutex);
  if (lastReport().empty()) lastReport() = text;
}
const char* takeReport() {
  static thread_local std::string taken;
  std::lock_guard lock(reportMutex);
  taken = std::move(lastReport());
  lastReport().clear();
  return taken.c_str();
}

bool execute(const Launch& launch) {
  std::lock_guard lock(launchMutex);
  static int64_t launches = 0;
  launches++;
  if (interpreter) {
    interpreterError().clear();
    if (interpreter(launch.name, launch.grid, launch.threads, launch.arguments, launch.argumentBytes,
                    launch.argumentCount))
      return true;
    setReport(("[cuda-sim] " + interpreterError() + "\n  kernel: " + launch.name).c_str());
    return false;
  }
  // Looked at once: a kernel whose own thread reports a fault goes on with its other blocks.
  if (launch.gate.predicate && *launch.gate.predicate == 0) return true;
  const int32_t raised = launch.gate.fault->isRaised;
  if (raised != 0 && raised != 1 + launch.gate.launch) return true;
  static Team& team = *new Team;
  const auto& g = launch.grid;
  Job job{.launch = launch,
          .order = order(),
          .seed = mix(turns().seed, static_cast<uint64_t>(launches)),
          .counts = logPath() != nullptr,
          .blocks = static_cast<int64_t>(g.x) * g.y * g.z};
  if (job.order == Order::random && job.blocks <= 1 << 20) {
    job.permutation.resize(static_cast<size_t>(job.blocks));
    std::iota(job.permutation.begin(), job.permutation.end(), 0u);
    Random random{job.seed};
    for (auto i = static_cast<uint32_t>(job.blocks); i > 1; i--)
      std::swap(job.permutation[i - 1], job.permutation[random.below(i)]);
  }
  team.run(job);
  if (job.counts) log(launch, job.loads);
  if (job.failedAt == INT64_MAX) return true;
  setReport(("[cuda-sim] " + job.report + "\n  kernel: " + launch.name).c_str());
  return false;
}

void setInterpreter(Interpreter run) {
  std::lock_guard lock(launchMutex);
  interpreter = run;
}
void setInterpreterError(const char* text) { interpreterError() = text; }

}  // namespace sim
}  // namespace hadal

extern "C" void hadalSimSetInterpreter(hadal::sim::Interpreter run) { hadal::sim::setInterpreter(run); }
extern "C" void hadalSimSetInterpreterError(const char* text) { hadal::sim::setInterpreterError(text); }
extern "C" __attribute__((visibility("default"))) const char* hadalSimReport() { return hadal::sim::takeReport(); }
extern "C" __attribute__((visibility("default"))) int hadalSimSetOrder(const char* text) {
  return hadal::sim::setOrder(text);
}
