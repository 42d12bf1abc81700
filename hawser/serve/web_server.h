// serve/web_server.h - HTTP/1.1 on one event loop (Boost.Beast): it reads requests within limits, hands them to
// workers, and writes answers, whole or piece by piece, without ever waiting for a client.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace hawser {

struct WebRequest {
  std::string method, path, query;             // path without the query, percent signs decoded
  std::map<std::string, std::string> headers;  // names in lower case; of several of a name the last
  std::string body;

  /// Empty where there is none.
  const std::string& Header(const std::string& name) const;
};

/// THREADS: any. Calls after the answer is complete, or when the client is gone, do nothing.
class WebReply {
 public:
  using Headers = std::vector<std::pair<std::string, std::string>>;
  virtual ~WebReply() = default;
  /// The whole answer.
  virtual void Send(int status, std::string_view type, std::string body, const Headers& headers = {}) = 0;
  /// Begins an answer of unknown length.
  virtual void Begin(int status, std::string_view type, const Headers& headers = {}) = 0;
  /// False where the client is gone or has let more than the limit pile up (it is cut off then).
  virtual bool Write(std::string piece) = 0;
  virtual void End() = 0;
  virtual bool gone() const = 0;
  /// Calls `what` once when the client goes before the answer is complete, at once if it has gone already.
  virtual void OnGone(std::function<void()> what) = 0;
  virtual int status() const = 0;  // 0: nothing was sent yet
};

struct WebOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 8080;  // 0: any that is free
  size_t body_bytes = 32 << 20;
  size_t header_bytes = 16 << 10;
  size_t unsent_bytes = 4 << 20;  // of an answer that a client does not take
  size_t connections = 2048;
  int workers = 2;
  std::chrono::seconds idle{60};  // for a request to come, or for a client to take a part of its answer
  std::string certificate, key;   // PEM files; both empty: no TLS
};

class WebServer {
 public:
  /// Called on a worker's thread. What it throws ends in a 500 without its text.
  using Handler = std::function<void(const WebRequest&, const std::shared_ptr<WebReply>&)>;

  /// Binds. `refused`: the body of an answer that the server gives itself (a request that is no HTTP, too large, ...).
  /// Errors: kUsage naming the address where it cannot be bound, or a certificate that cannot be used.
  WebServer(const WebOptions& options, Handler handler, std::function<std::string(int status)> refused);
  ~WebServer();

  uint16_t port() const;
  /// Serves until Stop. `signals`: SIGINT and SIGTERM call on_signal, on the loop's thread.
  void Run(const std::function<void()>& on_signal = {});
  /// Takes no more connections or requests; ends when the answers under way are complete, or after `most`.
  void Stop(std::chrono::milliseconds most);
  size_t connections() const;

  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace hawser
