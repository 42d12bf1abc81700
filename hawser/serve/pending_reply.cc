#include "hawser/serve/pending_reply.h"

#include <fmt/format.h>

#include <boost/beast/http/status.hpp>
#include <utility>

namespace hawser {
namespace {

std::string_view Reason(int status) {
  const auto reason = boost::beast::http::obsolete_reason(static_cast<boost::beast::http::status>(status));
  return {reason.data(), reason.size()};
}

}  // namespace

std::optional<WebRequest> PendingReply::TakeRequest() {
  const std::lock_guard lock(mutex_);
  if (gone_) return std::nullopt;
  return std::exchange(request_, {});
}

void PendingReply::Send(int status, std::string_view type, std::string body, const Headers& headers) {
  const std::lock_guard lock(mutex_);
  if (begun_) return;
  begun_ = done_ = true;
  status_ = status;
  std::string text = Head(status, type, headers);
  text += status == 204 ? "\r\n" : fmt::format("Content-Length: {}\r\n\r\n", body.size());
  if (!head_) text += body;
  Push(std::move(text));
}

void PendingReply::Begin(int status, std::string_view type, const Headers& headers) {
  const std::lock_guard lock(mutex_);
  if (begun_) return;
  begun_ = true;
  status_ = status;
  if (version_ < 11) keep_alive_ = false;
  Push(Head(status, type, headers) + (version_ < 11 ? "\r\n" : "Transfer-Encoding: chunked\r\n\r\n"));
}

bool PendingReply::Write(std::string piece) {
  const std::lock_guard lock(mutex_);
  if (gone_ || done_) return false;
  if (piece.empty() || head_) return true;
  if (version_ >= 11) piece = fmt::format("{:x}\r\n", piece.size()) + piece + "\r\n";
  Push(std::move(piece));
  return !gone_;
}

void PendingReply::End() {
  const std::lock_guard lock(mutex_);
  if (done_) return;
  done_ = true;
  Push(version_ >= 11 && !head_ ? "0\r\n\r\n" : "");
}

void PendingReply::OnGone(std::function<void()> what) {
  {
    const std::lock_guard lock(mutex_);
    if (done_) return;
    if (!gone_) {
      on_gone_ = std::move(what);
      return;
    }
  }
  what();
}

void PendingReply::Lost() {
  std::function<void()> what;
  {
    const std::lock_guard lock(mutex_);
    if (gone_) return;
    gone_ = true;
    request_ = {};
    unsent_.clear();
    if (!done_) what = std::move(on_gone_);
    on_gone_ = nullptr;
    client_.reset();
  }
  if (what) what();
}

std::optional<std::string> PendingReply::Next(bool* complete) {
  const std::lock_guard lock(mutex_);
  *complete = false;
  if (unsent_.empty()) {
    writing_ = false;
    *complete = done_;
    return std::nullopt;
  }
  std::string all;
  for (std::string& piece : unsent_) all += piece;
  unsent_.clear();
  unsent_bytes_ = all.size();
  return all;
}

void PendingReply::Forget() {
  const std::lock_guard lock(mutex_);
  gone_ = done_ = true;
  on_gone_ = nullptr;
  client_.reset();
}

std::string PendingReply::Head(int status, std::string_view type, const Headers& headers) const {
  std::string text =
      fmt::format("HTTP/1.1 {} {}\r\nConnection: {}\r\n", status, Reason(status), keep_alive_ ? "keep-alive" : "close");
  if (status != 204) text += fmt::format("Content-Type: {}\r\n", type);
  for (const auto& [name, value] : headers) text += fmt::format("{}: {}\r\n", name, value);
  return text;
}

void PendingReply::Push(std::string text) {
  if (gone_ || !client_) return;
  unsent_bytes_ += text.size();
  unsent_.push_back(std::move(text));
  // A client that takes nothing is cut off. One large answer that was given at once is no sign of it.
  if (unsent_.size() > 1 && unsent_bytes_ > client_->most_unsent()) return client_->PostLost();
  if (writing_) return;
  writing_ = true;
  client_->PostWrite(shared_from_this());
}

}  // namespace hawser
