#include "hawser/infer/chat.h"

#include <algorithm>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/io/json.h"
#include "hawser/tok/utf8.h"

namespace hawser {

using Json = nlohmann::ordered_json;

Chat::Chat(Decoder* decoder, KvCache* cache, const Tokenizer* tokenizer, int64_t most)
    : decoder_(decoder),
      cache_(cache),
      tokenizer_(tokenizer),
      template_(*tokenizer),
      generation_(decoder, cache),
      most_(most) {}

void Chat::SetMessages(Json messages) {
  const auto is_message = [](const Json& message) {
    return message.is_object() && message.contains("role") && message["role"].is_string() &&
           message.contains("content") && message["content"].is_string();
  };
  if (!messages.is_array()) Fail(ErrorKind::kFormat, "a talk is a list of messages, found {}", ShownJson(messages));
  for (const Json& message : messages) {
    if (!is_message(message)) {
      Fail(ErrorKind::kFormat, "a message has a text \"role\" and a text \"content\", found {}", ShownJson(message));
    }
  }
  const bool has_system = !messages.empty() && messages[0]["role"] == "system";
  system_ = has_system ? messages[0]["content"].get<std::string>() : "";
  messages_ = std::move(messages);
}

void Chat::SetSystem(std::string text) {
  if (!IsUtf8(text)) Fail(ErrorKind::kUsage, "the system message is not UTF-8");
  const bool has_system = !messages_.empty() && messages_[0]["role"] == "system";
  if (has_system) messages_.erase(messages_.begin());
  system_ = std::move(text);
  if (!system_.empty()) messages_.insert(messages_.begin(), Json{{"role", "system"}, {"content", system_}});
}

void Chat::Reset() {
  messages_ = Json::array();
  SetSystem(std::move(system_));
  cache_->Reset();
  ids_.clear();
  seen_text_.clear();
  state_ = {};
}

/// The ids that bring the cache from what it has seen to `text`.
std::vector<int32_t> Chat::Unread(const jinja::Text& text) {
  reread_ = 0;
  if (!ids_.empty() && !seen_text_.empty() && text.size() > seen_text_.size() && text.bytes().starts_with(seen_text_)) {
    return template_.Encode(text.Part(seen_text_.size()), /*goes_on=*/true);
  }
  seen_text_.clear();
  const std::vector<int32_t> all = template_.Encode(text);
  const int64_t prefix = cache_->prefix_tokens();  // which is no part of the talk
  const auto held = static_cast<size_t>(cache_->seen() - prefix);
  size_t common = 0;
  while (common < held && common + 1 < all.size() && ids_[common] == all[common]) ++common;
  if (!cache_->Truncate(prefix + static_cast<int64_t>(common))) {
    cache_->Reset();
    common = 0;
  }
  reread_ = static_cast<int64_t>(std::min(held, all.size()) - std::min(common, all.size()));
  ids_.resize(common);
  state_.pending.clear();
  state_.unread = false;
  state_.held.clear();
  state_.seen = {.ids = ids_};  // penalties count what the talk now is
  return {all.begin() + static_cast<ptrdiff_t>(common), all.end()};
}

GenerateResult Chat::Answer(const std::string& text, const GenerateOptions& options,
                            const std::function<void(std::string_view)>& on_text) {
  if (!IsUtf8(text)) Fail(ErrorKind::kUsage, "the message is not UTF-8");
  Json talk = messages_;
  talk.push_back({{"role", "user"}, {"content", text}});
  const jinja::Text rendered = template_.Render(talk, /*answer=*/true);
  const std::vector<int32_t> fresh = Unread(rendered);
  const auto used = cache_->prefix_tokens() + static_cast<int64_t>(ids_.size() + fresh.size());
  GenerateOptions limited = options;
  limited.max_new = options.max_new > 0 ? std::min(options.max_new, most_ - used) : most_ - used;
  if (limited.max_new < 1) {
    Fail(ErrorKind::kUsage,
         "the talk would be {} tokens, more than the context of {}; begin anew (/reset), stretch the context (--rope "
         "yarn:factor=4), or bound the cache (--kv bounded:{})",
         used, most_, std::max<int64_t>(8, most_ / 2));
  }
  GenerateResult result;
  try {
    result = Generate(generation_, fresh, *tokenizer_, limited, on_text, &state_);
  } catch (...) {
    cache_->Reset();
    ids_.clear();
    seen_text_.clear();
    state_ = {};
    throw;
  }
  ids_.insert(ids_.end(), fresh.begin(), fresh.end());
  if (result.stop == StopReason::kCancelled && result.ids.empty()) {
    ids_.resize(static_cast<size_t>(cache_->seen() - cache_->prefix_tokens()));
    seen_text_.clear();
    return result;
  }
  ids_.insert(ids_.end(), result.ids.begin(), result.ids.end());
  // Behind a stop string the cache has seen more than what is said.
  seen_text_ = result.stop == StopReason::kStop ? "" : rendered.bytes() + result.text;
  talk.push_back({{"role", "assistant"}, {"content", result.text}});
  messages_ = std::move(talk);
  return result;
}

}  // namespace hawser
