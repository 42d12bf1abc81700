// serve/replies.h - how answers of the API leave: with the headers that all have, and counted.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "hawser/serve/meters.h"
#include "hawser/serve/openai.h"
#include "hawser/serve/web_server.h"

namespace hawser {

class Replies {
 public:
  /// `cors`: origin that pages may come from; empty: this server's own alone. `meters` outlives it.
  Replies(std::string cors, Meters* meters) : cors_(std::move(cors)), meters_(meters) {}

  void Send(WebReply& reply, int status, std::string_view type, std::string body, WebReply::Headers headers = {}) const;
  void Json(WebReply& reply, const nlohmann::ordered_json& json) const;
  void Refuse(WebReply& reply, const ApiError& error) const;
  bool crosses_origins() const { return !cors_.empty(); }
  /// Begins a stream of events.
  void Begin(WebReply& reply) const;

 private:
  void AddCommon(WebReply::Headers* headers) const;

  std::string cors_;
  Meters* meters_;
};

}  // namespace hawser
