// tok/chat_template.h - a conversation as the text that a chat model was trained on, by the template that it brings
// (https://huggingface.co/docs/transformers/chat_templating).
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/jinja/template.h"
#include "hawser/tok/tokenizer.h"

namespace hawser {

class ChatTemplate {
 public:
  /// The template of the model's folder or file (chat_template.jinja, else "chat_template" of tokenizer_config.json,
  /// there the one named "default" of several). Errors: kUsage where the model brings none; those of jinja/template.h.
  explicit ChatTemplate(const Tokenizer& tokenizer);

  /// `messages`: a list of {"role", "content", ...}. With `answer` the text ends where an assistant's turn begins.
  /// `more`: other names that the template may use (tools, enable_thinking). What messages hold is marked as given.
  jinja::Text Render(const nlohmann::ordered_json& messages, bool answer,
                     const nlohmann::ordered_json& more = nlohmann::ordered_json::object()) const;

  /// Ids of rendered text, or of the rest of one that `goes_on` behind what was encoded before.
  std::vector<int32_t> Encode(const jinja::Text& text, bool goes_on = false) const {
    return tokenizer_.EncodeMarked(text.bytes(), text.marks(), goes_on);
  }

  /// The rendered text in ids. Names of special tokens are those tokens where the template wrote them, and plain text
  /// where a message did.
  std::vector<int32_t> Ids(const nlohmann::ordered_json& messages, bool answer,
                           const nlohmann::ordered_json& more = nlohmann::ordered_json::object()) const;

 private:
  const Tokenizer& tokenizer_;
  jinja::Template template_;
};

}  // namespace hawser
