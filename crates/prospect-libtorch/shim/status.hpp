// Turns C++ exceptions into a status code and a message. Every function of the C ABI that can
// fail runs its body through `guarded`, so that no exception crosses the boundary.
#pragma once

#include <c10/util/Exception.h>
#include <gloo/context.h>
#include <torch/csrc/distributed/c10d/exception.h>

#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>

// The numbers are mirrored in src/ffi.rs.
enum prospect_status : int {
  PROSPECT_OK = 0,
  PROSPECT_TORCH = 1,
  PROSPECT_TIMEOUT = 2,
  PROSPECT_CONNECTION = 3,
  PROSPECT_UNAVAILABLE = 4,
  PROSPECT_ABORTED = 5,
};

namespace prospect {

// Thrown by the shim itself when a backend or a device is missing.
struct Unavailable : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Thrown when c10d says that a collective was given up.
struct Aborted : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Gloo and the store have one exception type for several causes: only the text tells a wait
// that ran out from a connection that broke.
inline bool speaks_of_timeout(const std::string& message) {
  for (const char* words : {"imed out", "timeout", "Timeout"}) {
    if (message.find(words) != std::string::npos) {
      return true;
    }
  }
  return false;
}

inline int report(int status, const std::string& text, char** message) noexcept {
  *message = strdup(text.c_str());
  return status;
}

template <class Body>
int guarded(char** message, Body&& body) noexcept {
  try {
    body();
    return PROSPECT_OK;
  } catch (const Unavailable& error) {
    return report(PROSPECT_UNAVAILABLE, error.what(), message);
  } catch (const Aborted& error) {
    return report(PROSPECT_ABORTED, error.what(), message);
  } catch (const c10d::TimeoutError& error) {
    return report(PROSPECT_TIMEOUT, error.what_without_backtrace(), message);
  } catch (const c10::DistError& error) {
    const std::string text = error.what_without_backtrace();
    const int status = speaks_of_timeout(text) ? PROSPECT_TIMEOUT : PROSPECT_CONNECTION;
    return report(status, text, message);
  } catch (const c10::Error& error) {
    return report(PROSPECT_TORCH, error.what_without_backtrace(), message);
  } catch (const gloo::IoException& error) {
    const std::string text = error.what();
    const int status = speaks_of_timeout(text) ? PROSPECT_TIMEOUT : PROSPECT_CONNECTION;
    return report(status, text, message);
  } catch (const std::exception& error) {
    return report(PROSPECT_TORCH, error.what(), message);
  } catch (...) {
    return report(PROSPECT_TORCH, "an exception that is no std::exception", message);
  }
}

} // namespace prospect
