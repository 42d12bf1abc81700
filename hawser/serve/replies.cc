#include "hawser/serve/replies.h"

#include <utility>

namespace hawser {

void Replies::AddCommon(WebReply::Headers* headers) const {
  headers->emplace_back("X-Content-Type-Options", "nosniff");
  if (cors_.empty()) return;
  headers->emplace_back("Access-Control-Allow-Origin", cors_);
  headers->emplace_back("Vary", "Origin");
}

void Replies::Send(WebReply& reply, int status, std::string_view type, std::string body,
                   WebReply::Headers headers) const {
  meters_->Count(status);
  AddCommon(&headers);
  reply.Send(status, type, std::move(body), headers);
}

void Replies::Json(WebReply& reply, const nlohmann::ordered_json& json) const {
  Send(reply, 200, "application/json", Dump(json));
}

void Replies::Refuse(WebReply& reply, const ApiError& error) const {
  WebReply::Headers headers;
  if (error.status() == 429 || error.status() == 503) headers.emplace_back("Retry-After", "1");
  if (error.status() == 401) headers.emplace_back("WWW-Authenticate", "Bearer");
  Send(reply, error.status(), "application/json", error.Body(), std::move(headers));
}

void Replies::Begin(WebReply& reply) const {
  meters_->Count(200);
  WebReply::Headers headers = {{"Cache-Control", "no-cache"}};
  AddCommon(&headers);
  reply.Begin(200, "text/event-stream; charset=utf-8", headers);
}

}  // namespace hawser
