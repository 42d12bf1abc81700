// serve/talk_template.h - messages as clients send them, in the form that a chat template wants.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <vector>

#include "hawser/tok/chat_template.h"

namespace hawser {

class TalkTemplate {
 public:
  /// Errors: as ChatTemplate.
  explicit TalkTemplate(const Tokenizer& tokenizer);

  /// `messages`: each with a "content", text or null. Clients send the arguments of a tool call as the text of an
  /// object. Templates that write them as JSON, or walk through them, are given the object; those that write them as
  /// they are get the text. Null stays null for templates that ask for none, and is the empty text for others. Errors:
  /// as ChatTemplate::Render.
  jinja::Text Render(const nlohmann::ordered_json& messages, bool answer, const nlohmann::ordered_json& more) const;

  /// As ChatTemplate::Encode.
  std::vector<int32_t> Encode(const jinja::Text& text, bool goes_on = false) const {
    return template_.Encode(text, goes_on);
  }

 private:
  bool WritesObjects() const;

  ChatTemplate template_;
  bool asks_for_none_ = false, takes_objects_ = false;
};

}  // namespace hawser
