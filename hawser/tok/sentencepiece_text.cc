#include "hawser/tok/sentencepiece_text.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "hawser/tok/token_id.h"
#include "hawser/tok/utf8.h"

namespace hawser {
namespace {

constexpr std::string_view kMark = "\u2581";

}  // namespace

SentencePieceText::SentencePieceText(const nlohmann::json& rules,
                                     const std::function<std::string(int64_t id)>& name_of) {
  if (rules.is_null()) return;
  set_ = true;
  add_dummy_prefix_ = rules.at("add_dummy_prefix").get<bool>();
  remove_extra_whitespaces_ = rules.at("remove_extra_whitespaces").get<bool>();
  escape_whitespaces_ = rules.at("escape_whitespaces").get<bool>();
  std::vector<AddedToken> tokens;
  for (const nlohmann::json& id : rules.at("user_defined")) {
    user_ids_.push_back(TokenId(id, "user_defined"));
    tokens.push_back({.id = user_ids_.back(), .content = name_of(user_ids_.back())});
  }
  std::ranges::sort(user_ids_);
  user_defined_ = AddedTokens(std::move(tokens));
}

std::string SentencePieceText::Normalize(std::string_view text, TextPlace place) const {
  const std::string_view blank = escape_whitespaces_ ? kMark : " ";
  std::string out;
  if (remove_extra_whitespaces_ && place != TextPlace::kGoesOn) {
    while (text.starts_with(' ') && user_defined_.LongestAt(text, 0, true) == nullptr) text.remove_prefix(1);
  }
  if (text.empty()) return out;
  if (add_dummy_prefix_ && place == TextPlace::kStart) out += blank;
  bool after_blank = remove_extra_whitespaces_ && place != TextPlace::kGoesOn;
  for (size_t at = 0; at < text.size();) {
    const AddedToken* piece = user_defined_.LongestAt(text, at, true);
    const size_t length = piece != nullptr ? piece->content.size() : CodePointAt(text, at).length;
    std::string_view part = text.substr(at, length);
    at += length;
    while (after_blank && part.starts_with(' ')) part.remove_prefix(1);
    if (!part.empty()) after_blank = remove_extra_whitespaces_ && part.ends_with(' ');
    for (const char c : part) {
      if (c == ' ') {
        out += blank;
      } else {
        out += c;
      }
    }
  }
  while (remove_extra_whitespaces_ && out.ends_with(blank)) out.erase(out.size() - blank.size());
  return out;
}

}  // namespace hawser
