// The Gloo backend: construction, and the abort that c10d does not give it.
#include "prospect_shim.h"

#include "handles.hpp"
#include "status.hpp"

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

namespace {

// Reaches the protected connections of a process group without adding to it.
struct Connections : public c10d::ProcessGroupGloo {
  static auto member() {
    return &Connections::contexts_;
  }
};

// Closes every connection, which fails what waits on it here and at the peers. c10d's worker
// threads then finish their queue with errors, so the group can be destroyed without a wait.
void abort_gloo(c10d::Backend& backend) {
  auto& gloo = static_cast<c10d::ProcessGroupGloo&>(backend);
  for (auto& context : gloo.*Connections::member()) {
    for (int peer = 0; peer < gloo.getSize(); ++peer) {
      if (peer == gloo.getRank()) {
        continue;
      }
      if (auto* pair = context->getPair(peer).get()) {
        static_cast<gloo::transport::tcp::Pair*>(pair)->signalExceptionExternal(
            "the process group was aborted");
      }
    }
  }
}

} // namespace

int prospect_gloo_new(
    const prospect_store* store,
    const char* prefix,
    const char* interface,
    int rank,
    int size,
    int64_t timeout_ms,
    prospect_group** out,
    char** message) {
  return prospect::guarded(message, [&] {
    const std::chrono::milliseconds timeout(timeout_ms);
    auto options = c10d::ProcessGroupGloo::Options::create(timeout);
    options->devices.push_back(
        interface == nullptr
            ? c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1", false)
            : c10d::ProcessGroupGloo::createDeviceForInterface(interface, false));
    // A connection of its own: waiting for one group's peers must not hold up another's.
    auto own = store->store->clone();
    own->setTimeout(timeout);
    auto prefixed = c10::make_intrusive<c10d::PrefixStore>(prefix, std::move(own));
    auto backend = c10::make_intrusive<c10d::ProcessGroupGloo>(
        std::move(prefixed), rank, size, std::move(options));
    *out = new prospect_group{store->store, std::move(backend), &abort_gloo};
  });
}
