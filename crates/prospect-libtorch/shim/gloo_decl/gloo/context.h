// Declarations of the gloo types that c10d's header names. libtorch contains gloo but ships
// none of its headers; objects of these types are only ever made inside libtorch and reach us
// as pointers, so declaring the members we call is enough. Nothing here defines a layout.
#pragma once

#include <chrono>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace gloo {

struct Exception : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Thrown for connections that broke and for waits that ran out of time.
struct IoException : public Exception {
  using Exception::Exception;
};

namespace transport {

class Device;

class UnboundBuffer {
 public:
  virtual ~UnboundBuffer() = 0;
};

class Pair {
 public:
  virtual ~Pair() = 0;
};

namespace tcp {

class Pair : public ::gloo::transport::Pair {
 public:
  // Fails every pending operation of the pair and closes its connection; takes the pair's lock.
  // Returns the failure, or the earlier one if the pair had failed before.
  std::exception_ptr signalExceptionExternal(const std::string& message);
};

} // namespace tcp
} // namespace transport

class Context {
 public:
  void setTimeout(std::chrono::milliseconds timeout);
  std::unique_ptr<transport::Pair>& getPair(int rank);
};

namespace rendezvous {

class Store {
 public:
  virtual ~Store() = 0;
  virtual void set(const std::string& key, const std::vector<char>& value) = 0;
  virtual std::vector<char> get(const std::string& key) = 0;
  virtual void wait(const std::vector<std::string>& keys) = 0;
  virtual void wait(
      const std::vector<std::string>& keys,
      const std::chrono::milliseconds& timeout) = 0;
};

} // namespace rendezvous
} // namespace gloo
