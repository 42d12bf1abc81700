// tok/sentencepiece_text.h - how SentencePiece (github.com/google/sentencepiece) prepares text for its merges.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/tok/added_tokens.h"
#include "hawser/tok/text_place.h"

namespace hawser {

/// Its rules lie in tokenizer.json as the key "hawser" of "model", which other readers pass over:
///   {"add_dummy_prefix", "remove_extra_whitespaces", "escape_whitespaces": bool, "user_defined": [id, ...],
///    "ties": [place, ...] of the merges that have the rank of the merge before them}
class SentencePieceText {
 public:
  SentencePieceText() = default;
  /// `rules` as above or null; `name_of` gives the text of a piece. Errors: kFormat.
  SentencePieceText(const nlohmann::json& rules, const std::function<std::string(int64_t id)>& name_of);

  explicit operator bool() const { return set_; }
  bool user_defined(int32_t id) const { return std::ranges::binary_search(user_ids_, id); }

  /// Blanks at both ends and double ones taken out, one put in front of a text that begins here, all written U+2581,
  /// each where the rules say so. A user-defined piece is found as it is written, in the text as it came first.
  std::string Normalize(std::string_view text, TextPlace place) const;

  /// sink(stretch, -1) and sink(piece, id): user-defined pieces of normalized text, the longest that start at each
  /// place, and what lies between them.
  void ForEach(std::string_view normalized, const std::function<void(std::string_view part, int32_t id)>& sink) const {
    user_defined_.ForEach(normalized, true, sink);
  }

 private:
  bool set_ = false;
  bool add_dummy_prefix_ = false;
  bool remove_extra_whitespaces_ = false;
  bool escape_whitespaces_ = false;
  AddedTokens user_defined_;
  std::vector<int32_t> user_ids_;  // ascending
};

}  // namespace hawser
