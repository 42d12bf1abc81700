// infer/chat.h - a conversation with a chat model in one cache, of which only what is new is read.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/infer/generation.h"
#include "hawser/tok/chat_template.h"

namespace hawser {

class Chat {
 public:
  /// The pointers outlive it. `most`: tokens that the cache may see before the talk does not fit any more; none is
  /// asked of caches that drop keys. Errors: those of ChatTemplate.
  Chat(Decoder* decoder, KvCache* cache, const Tokenizer* tokenizer, int64_t most = INT64_MAX);

  /// What the talk is made of: {"role", "content"} each, a system message first where there is one.
  const nlohmann::ordered_json& messages() const { return messages_; }
  /// Errors: kFormat for anything but such a list.
  void SetMessages(nlohmann::ordered_json messages);
  /// Empty: none.
  const std::string& system() const { return system_; }
  void SetSystem(std::string text);
  /// The talk begins anew; the system message stays.
  void Reset();

  /// Says `text` as the user and gives the assistant's answer, which is part of the talk then, also where it was
  /// cancelled or cut. The template renders the whole talk. Where that goes on from what the cache has seen, only the
  /// rest is read; where it says earlier turns differently, what both have in common is kept if the cache can go back
  /// there, and the rest is read again. `options.max_new` 0: as many as fit. If nothing of an answer came before it was
  /// cancelled, or an error is thrown, the talk is as it was. Errors: kUsage for text that is not UTF-8 or a talk that
  /// does not fit; those of the template.
  GenerateResult Answer(const std::string& text, const GenerateOptions& options,
                        const std::function<void(std::string_view)>& on_text = {});

  int64_t reread() const { return reread_; }  // tokens of the last turn that the cache had seen once before

 private:
  std::vector<int32_t> Unread(const jinja::Text& text);

  Decoder* decoder_;
  KvCache* cache_;
  const Tokenizer* tokenizer_;
  ChatTemplate template_;
  Generation generation_;
  int64_t most_;
  std::string system_;
  nlohmann::ordered_json messages_ = nlohmann::ordered_json::array();
  std::vector<int32_t> ids_;  // what the cache has seen, and what waits in state_
  std::string seen_text_;     // that those ids stand for, as it was shown; empty: not known
  TextState state_;
  int64_t reread_ = 0;
};

}  // namespace hawser
