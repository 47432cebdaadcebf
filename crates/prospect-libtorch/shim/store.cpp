// TCPStore: the rendezvous of all process groups.
#include "prospect_shim.h"

#include "handles.hpp"
#include "status.hpp"

#include <c10/util/Logging.h>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <cstdlib>
#include <mutex>

namespace {

// Every failure comes back as a value, with c10d's words in it. The log lines and backtraces that
// c10d also prints would stand between them, so they appear only when they are asked for.
void quiet_logs() {
  static std::once_flag once;
  std::call_once(once, [] {
    if (std::getenv("TORCH_CPP_LOG_LEVEL") == nullptr) {
      FLAGS_caffe2_log_level = c10::GLOG_FATAL;
    } else {
      c10::initLogging();
    }
  });
}

c10d::TCPStoreOptions options(uint16_t port, int64_t timeout_ms) {
  c10d::TCPStoreOptions options;
  options.port = port;
  options.waitWorkers = false;
  options.timeout = std::chrono::milliseconds(timeout_ms);
  return options;
}

} // namespace

int prospect_store_host(
    int listen_fd,
    const char* host,
    uint16_t port,
    int64_t timeout_ms,
    prospect_store** out,
    char** message) {
  return prospect::guarded(message, [&] {
    quiet_logs();
    auto host_options = options(port, timeout_ms);
    host_options.isServer = true;
    host_options.masterListenFd = listen_fd;
    *out = new prospect_store{c10::make_intrusive<c10d::TCPStore>(host, host_options)};
  });
}

int prospect_store_connect(
    const char* host,
    uint16_t port,
    int64_t timeout_ms,
    prospect_store** out,
    char** message) {
  return prospect::guarded(message, [&] {
    quiet_logs();
    auto store = c10::make_intrusive<c10d::TCPStore>(host, options(port, timeout_ms));
    *out = new prospect_store{std::move(store)};
  });
}

void prospect_store_free(prospect_store* store) {
  delete store;
}

void prospect_message_free(char* message) {
  std::free(message);
}
