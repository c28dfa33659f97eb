// Process groups over NCCL, which is opened at run time: HADAL_NCCL, else
// libnccl.so.2 where the system finds it. NCCL puts its work on a stream and
// returns. Given no stream, every call here waits for it, and meanwhile looks
// for errors, for the end of its time and for abort(); given one, the device
// does, by check(), for all calls until settle(): a step. Communicators do not
// block, so that this holds while they are made, too.
#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <thread>

#include "comm/attendance.h"
#include "comm/nccl-api.h"

namespace hadal {

namespace {

using Clock = std::chrono::steady_clock;
using nccl::Api;
using nccl::Result;

Api load(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library)
    throw CommError("[comm] expected NCCL, cannot open it (" + std::string(dlerror()) +
                    "); install libnccl2, or set HADAL_NCCL to the path of libnccl.so.2");
  Api api;
#define HADAL_FIND(name, symbol, result, parameters) \
  api.name = reinterpret_cast<decltype(api.name)>(dlsym(library, #symbol));
  HADAL_NCCL_FUNCTIONS(HADAL_FIND)
#undef HADAL_FIND
  api.setCaller = reinterpret_cast<decltype(api.setCaller)>(dlsym(library, "hadalNcclSetEnqueue"));
  void* driver = api.setCaller ? library : dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  const auto findIn = [&](auto& function, const char* symbol) {
    if (driver) function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(driver, symbol));
  };
  findIn(api.streamQuery, "cuStreamQuery");
  findIn(api.initDriver, "cuInit");
  findIn(api.getDevice, "cuDeviceGet");
  findIn(api.retainContext, "cuDevicePrimaryCtxRetain");
  findIn(api.setContext, "cuCtxSetCurrent");
  std::string missing;
#define HADAL_CHECK(name, symbol, result, parameters) \
  if (!api.name) missing = #symbol;
  HADAL_NCCL_FUNCTIONS(HADAL_CHECK)
#undef HADAL_CHECK
  if (!api.streamQuery) missing = "cuStreamQuery (NVIDIA's driver, libcuda.so.1)";
  if (!missing.empty())
    throw CommError("[comm] expected NCCL 2.14 or later, " + path + " lacks " + missing + "; install a newer one");
  return api;
}

const Api& apiOf(const std::string& given) {
  const char* wanted = std::getenv("HADAL_NCCL");
  const std::string path = !given.empty() ? given : wanted && *wanted ? wanted : "libnccl.so.2";
  static std::mutex mutex;
  static std::map<std::string, Api> loaded;  // never closed: threads of NCCL may outlive every group
  std::lock_guard lock(mutex);
  const auto found = loaded.find(path);
  return found != loaded.end() ? found->second : loaded.emplace(path, load(path)).first->second;
}

nccl::DataType typeOf(DType dtype) {
  switch (dtype) {
    case DType::fp32:
      return nccl::DataType::float32;
    case DType::bf16:
      return nccl::DataType::bfloat16;
    case DType::fp16:
      return nccl::DataType::float16;
    case DType::int32:
      return nccl::DataType::int32;
    case DType::uint8:
      return nccl::DataType::uint8;
  }
  return nccl::DataType::int8;
}

nccl::RedOp opOf(ReduceOp op) {
  return op == ReduceOp::sum ? nccl::RedOp::sum : op == ReduceOp::min ? nccl::RedOp::min : nccl::RedOp::max;
}

class NcclGroup final : public ConnectableGroup {
 public:
  explicit NcclGroup(const GroupOptions& options)
      : options_(options),
        api_(apiOf(options.library)),
        links_(options, 1),
        attendance_(options, [this] { endIfIdle(); }) {
    if (options_.rank == 0) check(api_.getUniqueId(&id_));
  }

  ~NcclGroup() override {
    std::lock_guard lock(use_);
    if (comm_) attendance_.failure().isSet() ? api_.commAbort(comm_) : api_.commDestroy(comm_);
    comm_ = nullptr;
  }

  int rank() const override { return options_.rank; }
  int size() const override { return options_.size; }

  // Where this rank listens; of rank 0, the group's id before it.
  std::vector<uint8_t> address() const override {
    std::vector<uint8_t> address = links_.address();
    const auto* id = reinterpret_cast<const uint8_t*>(&id_);
    if (options_.rank == 0) address.insert(address.begin(), id, id + sizeof(id_));
    return address;
  }

  void connect(const std::vector<std::vector<uint8_t>>& addresses) override {
    std::lock_guard lock(use_);
    attendance_.failure().throwIfSet();
    auto links = addresses;
    if (links.size() != static_cast<size_t>(options_.size) || links[0].size() < sizeof(id_))
      throw CommError("[comm] expected the addresses of all ranks of an NCCL group, got others");
    std::memcpy(&id_, links[0].data(), sizeof(id_));
    links[0].erase(links[0].begin(), links[0].begin() + sizeof(id_));
    try {
      links_.connect(links);
    } catch (const CommError&) {
      attendance_.failure().throwIfSet();
      throw;
    }
    attendance_.begin(links_, 0);
    takeDevice();
    perform("joining", 0, -1, [&] {
      nccl::Config config;
      await(api_.commInitRankConfig(&comm_, options_.size, id_, options_.rank, &config), [] { return true; });
    });
  }

  void allReduce(void* data, int64_t count, DType dtype, ReduceOp op, Reducer) override {
    const int64_t bytes = count * bytesOf(dtype);
    collective("all-reduce", bytes, 2 * shareOf(bytes), [&] {
      return api_.allReduce(data, data, static_cast<size_t>(count), typeOf(dtype), opOf(op), comm_, stream_);
    });
  }

  void reduceScatter(void* in, void* out, int64_t count, DType dtype, ReduceOp op, Reducer) override {
    const int64_t bytes = options_.size * count * bytesOf(dtype);
    collective("reduce-scatter", bytes, shareOf(bytes), [&] {
      return api_.reduceScatter(in, out, static_cast<size_t>(count), typeOf(dtype), opOf(op), comm_, stream_);
    });
  }

  void allGather(const void* in, void* out, int64_t bytes) override {
    collective("all-gather", bytes, shareOf(options_.size * bytes), [&] {
      return api_.allGather(in, out, static_cast<size_t>(bytes), nccl::DataType::uint8, comm_, stream_);
    });
  }

  void allToAll(const void* in, void* out, int64_t bytes) override {
    const auto count = static_cast<size_t>(bytes);
    collective("all-to-all", options_.size * bytes, shareOf(options_.size * bytes), [&] {
      Result result = api_.groupStart();
      for (int r = 0; r < options_.size && result == Result::success; r++) {
        const auto* part = static_cast<const char*>(in) + r * bytes;
        result = api_.send(part, count, nccl::DataType::uint8, r, comm_, stream_);
        if (result != Result::success) break;
        result = api_.receive(static_cast<char*>(out) + r * bytes, count, nccl::DataType::uint8, r, comm_, stream_);
      }
      const Result ended = api_.groupEnd();
      return result == Result::success ? ended : result;
    });
  }

  void broadcast(void* data, int64_t bytes, int root) override {
    collective("broadcast", bytes, bytes, [&] {
      return api_.broadcast(data, data, static_cast<size_t>(bytes), nccl::DataType::uint8, root, comm_, stream_);
    });
  }

  void send(const void* data, int64_t bytes, int to) override {
    call("send", bytes, to,
         [&] { return api_.send(data, static_cast<size_t>(bytes), nccl::DataType::uint8, to, comm_, stream_); });
    sent_ += bytes;
  }

  void receive(void* data, int64_t bytes, int from) override {
    call("receive", bytes, from,
         [&] { return api_.receive(data, static_cast<size_t>(bytes), nccl::DataType::uint8, from, comm_, stream_); });
    received_ += bytes;
  }

  void barrier() override {
    collective("barrier", sizeof(barrier_), sizeof(barrier_), [&] {
      return api_.allReduce(&barrier_, &barrier_, 1, nccl::DataType::int32, nccl::RedOp::sum, comm_, stream_);
    });
  }

  void abort(const std::string& reason) override {
    attendance_.abort(reason);
    links_.interrupt();
    endIfIdle();
  }

  bool worksOnStreams() const override { return true; }

  void useStream(void* stream, StreamCaller caller) override {
    std::lock_guard lock(use_);
    stream_ = stream;
    if (stream && api_.setCaller) api_.setCaller(caller);
  }

  void enter(WireBytes replayed) override {
    std::lock_guard lock(use_);
    expectComm();
    beginStep("a step's collectives", replayed.sent);
    sent_ += replayed.sent;
    received_ += replayed.received;
  }

  void check() override {
    std::lock_guard lock(use_);
    if (!isInStep_) return;
    try {
      attendance_.failure().throwIfSet();
      Result result = Result::success;
      check(api_.commGetAsyncError(comm_, &result));
      check(result);
    } catch (const CommError& error) {
      isInStep_ = false;
      end();
      attendance_.explain(error.what());
    }
  }

  void settle() override {
    std::lock_guard lock(use_);
    check();
    if (isInStep_) attendance_.leave();
    isInStep_ = false;
  }

  // NCCL does not tell; as its rings send it.
  WireBytes wireBytes() const override { return {sent_, received_}; }

 private:
  int64_t shareOf(int64_t bytes) const { return bytes / options_.size * (options_.size - 1); }

  // NCCL makes a communicator for the GPU of the thread that asks for it.
  void takeDevice() const {
    if (options_.device < 0 || !api_.setContext) return;  // the stand-in has none
    int device = 0;
    void* context = nullptr;
    int error = api_.initDriver(0);
    if (error == 0) error = api_.getDevice(&device, options_.device);
    if (error == 0) error = api_.retainContext(&context, device);  // for good, as the process keeps it
    if (error == 0) error = api_.setContext(context);
    if (error != 0)
      throw CommError("[comm] cannot take GPU " + std::to_string(options_.device) + " for NCCL: CUDA reports error " +
                      std::to_string(error));
  }

  template <class Issue>
  void collective(const char* what, int64_t bytes, int64_t wireBytes, Issue issue) {
    call(what, bytes, -1, issue);
    sent_ += wireBytes;
    received_ += wireBytes;
  }

  template <class Issue>
  void call(const char* what, int64_t bytes, int peer, Issue issue) {
    std::lock_guard lock(use_);
    expectComm();
    if (!stream_) return perform(what, bytes, peer, [&] { await(issue(), [&] { return isStreamDone(); }); });
    beginStep(what, bytes);
    try {
      await(issue(), [] { return true; });
    } catch (const CommError& error) {
      isInStep_ = false;
      end();
      attendance_.explain(error.what());
    }
  }

  void expectComm() const {
    attendance_.failure().throwIfSet();
    if (!comm_) throw CommError("[comm] expected a connected group, got one that is not");
  }

  // All that is put on streams up to settle() is one thing that every rank comes to; how many calls it has does not matter,
  // since a graph makes them without telling. Its time begins with the first.
  void beginStep(const char* what, int64_t bytes) {
    if (!isInStep_) attendance_.enter(what, bytes);
    isInStep_ = true;
  }

  template <class Work>
  void perform(const char* what, int64_t bytes, int peer, Work work) {
    attendance_.enter(what, bytes, peer);
    try {
      work();
    } catch (const std::runtime_error& error) {
      end();
      attendance_.explain(error.what());
    }
    attendance_.leave();
  }

  bool isStreamDone() {
    const auto state = api_.streamQuery(stream_);
    if (state != nccl::StreamState::done && state != nccl::StreamState::notReady)
      throw std::runtime_error("CUDA reports error " + std::to_string(static_cast<int>(state)));
    return state == nccl::StreamState::done;
  }

  // Until NCCL has taken the call, and then until `isDone`.
  template <class IsDone>
  void await(Result result, IsDone isDone) {
    const auto begin = Clock::now();
    for (;;) {
      check(result);
      attendance_.failure().throwIfSet();
      if (result == Result::success && isDone()) return;
      // Small messages are done within some 10 µs; a sleep takes 60 µs and leaves the processor to others.
      if (Clock::now() - begin < std::chrono::microseconds(50)) {
        std::this_thread::yield();
      } else {
        std::this_thread::sleep_for(std::chrono::microseconds(20));
      }
      check(api_.commGetAsyncError(comm_, &result));
    }
  }

  void check(Result result) const {
    if (result != Result::success && result != Result::inProgress)
      throw CommError(std::string("[comm] NCCL reports ") + api_.getErrorString(result));
  }

  // On whichever thread learns of a failure: what is on streams ends. A call under way ends the communicator itself as soon as
  // it looks.
  void endIfIdle() {
    std::unique_lock lock(use_, std::try_to_lock);
    if (lock) end();
  }

  // The others notice.
  void end() {
    if (comm_) api_.commAbort(comm_);
    comm_ = nullptr;
  }

  const GroupOptions options_;
  const Api& api_;
  nccl::UniqueId id_{};
  nccl::Comm* comm_ = nullptr;
  nccl::Stream stream_ = nullptr;  // null: the default one, which is waited for
  bool isInStep_ = false;
  int32_t barrier_ = 0;
  std::recursive_mutex
      use_;  // held by the call under way, amidst which the attendance may say that the group has failed
  std::atomic<int64_t> sent_{0}, received_{0};
  Links links_;
  Attendance attendance_;
};

}  // namespace

std::shared_ptr<ConnectableGroup> openNccl(const GroupOptions& options) { return std::make_shared<NcclGroup>(options); }

}  // namespace hadal
