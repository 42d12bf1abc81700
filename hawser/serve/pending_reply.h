// serve/pending_reply.h - the answer to one request while it is made by workers and written by the server's loop.
#pragma once

#include <atomic>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "hawser/serve/web_server.h"

namespace hawser {

class PendingReply;

/// The connection that an answer goes to. THREADS: any.
class ReplyClient {
 public:
  virtual ~ReplyClient() = default;
  /// Bytes of an answer that may wait for a client.
  virtual size_t most_unsent() const = 0;
  /// Has the loop take what `reply` has to write.
  virtual void PostWrite(std::shared_ptr<PendingReply> reply) = 0;
  /// Has the loop cut the client off.
  virtual void PostLost() = 0;
};

class PendingReply final : public WebReply, public std::enable_shared_from_this<PendingReply> {
 public:
  /// `version`: 10 or 11, of HTTP. `head`: no body is sent.
  PendingReply(std::shared_ptr<ReplyClient> client, WebRequest request, unsigned version, bool keep_alive, bool head)
      : client_(std::move(client)),
        request_(std::move(request)),
        version_(version),
        keep_alive_(keep_alive),
        head_(head) {}

  /// What is asked, once. Nothing where the client is gone: nobody wants an answer, and what it sent is freed already.
  std::optional<WebRequest> TakeRequest();

  void Send(int status, std::string_view type, std::string body, const Headers& headers) override;
  void Begin(int status, std::string_view type, const Headers& headers) override;
  bool Write(std::string piece) override;
  void End() override;
  bool gone() const override { return gone_; }
  int status() const override { return status_; }
  void OnGone(std::function<void()> what) override;

  // The loop's side.
  void Lost();
  /// What is to be written next; null: nothing now. `complete`: nothing comes behind it.
  std::optional<std::string> Next(bool* complete);
  bool keep_alive() const { return keep_alive_; }
  /// Lets go of the connection: the answer is written.
  void Forget();

 private:
  std::string Head(int status, std::string_view type, const Headers& headers) const;
  void Push(std::string text);

  mutable std::mutex mutex_;
  std::shared_ptr<ReplyClient> client_;
  WebRequest request_;
  unsigned version_;
  bool keep_alive_, head_;
  bool begun_ = false, done_ = false, writing_ = false;
  std::atomic<bool> gone_ = false;
  std::atomic<int> status_ = 0;
  std::deque<std::string> unsent_;
  size_t unsent_bytes_ = 0;
  std::function<void()> on_gone_;
};

}  // namespace hawser
