// Moments on the stream of a device, as the device passes them.
#include "prospect_shim.h"

#include "status.hpp"

#include <ATen/Context.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <memory>

struct prospect_event {
  // The flag asks for a time.
  c10::Event event{c10::DeviceType::CUDA, c10::EventFlag::BACKEND_DEFAULT};
};

int prospect_event_record(int device_idx, prospect_event** out, char** message) {
  return prospect::guarded(message, [&] {
    if (!at::hasCUDA()) {
      throw prospect::Unavailable("no CUDA device can be used by this process");
    }
    const c10::Device device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device_idx));
    auto made = std::make_unique<prospect_event>();
    made->event.record(c10::impl::VirtualGuardImpl(device.type()).getStream(device));
    *out = made.release();
  });
}

int prospect_event_seconds(
    const prospect_event* from, const prospect_event* to, double* out, char** message) {
  return prospect::guarded(message, [&] {
    from->event.synchronize();
    to->event.synchronize();
    // Milliseconds.
    *out = from->event.elapsedTime(to->event) / 1e3;
  });
}

void prospect_event_free(prospect_event* event) {
  delete event;
}
