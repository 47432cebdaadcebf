// Streams of a device, and moments on them as the device passes them.
#include "prospect_shim.h"

#include "status.hpp"

#include <ATen/Context.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <memory>

namespace {

c10::Device cuda_device(int device_idx) {
  if (!at::hasCUDA()) {
    throw prospect::Unavailable("no CUDA device can be used by this process");
  }
  return c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device_idx));
}

c10::Stream cuda_stream(int device_idx, int64_t id) {
  return c10::Stream(c10::Stream::UNSAFE, cuda_device(device_idx), id);
}

} // namespace

struct prospect_event {
  // The flag asks for a time.
  c10::Event event{c10::DeviceType::CUDA, c10::EventFlag::BACKEND_DEFAULT};
};

int prospect_event_record(int device_idx, prospect_event** out, char** message) {
  return prospect::guarded(message, [&] {
    const auto device = cuda_device(device_idx);
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

int prospect_event_wait(const prospect_event* event, char** message) {
  return prospect::guarded(message, [&] { event->event.synchronize(); });
}

void prospect_event_free(prospect_event* event) {
  delete event;
}

int prospect_stream_new(int device_idx, int64_t* id, char** message) {
  return prospect::guarded(message, [&] {
    const auto device = cuda_device(device_idx);
    *id = c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device).id();
  });
}

int prospect_stream_exchange(int device_idx, int64_t id, int64_t* previous, char** message) {
  return prospect::guarded(message, [&] {
    const auto stream = cuda_stream(device_idx, id);
    *previous = c10::impl::VirtualGuardImpl(stream.device_type()).exchangeStream(stream).id();
  });
}

int prospect_stream_wait(int device_idx, int64_t id, const prospect_event* event, char** message) {
  return prospect::guarded(
      message, [&] { event->event.block(cuda_stream(device_idx, id)); });
}
