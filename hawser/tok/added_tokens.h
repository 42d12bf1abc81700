// tok/added_tokens.h - the "added_tokens" of a tokenizer.json: whole strings taken out of the text before it is split.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hawser/tok/prefix_set.h"

namespace hawser {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the blanks before it along
  bool rstrip = false;       // takes the blanks after it along
  bool special = false;
};

/// Finds added tokens: leftmost first, the longest of those that start there.
class AddedTokens {
 public:
  AddedTokens() = default;
  /// A token with empty content is never found; of equal contents the last one counts.
  explicit AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {}

  bool empty() const { return tokens_.empty(); }

  /// The longest token that `text` has at `at`, null for none. Special tokens are passed over unless `parse_special`.
  const AddedToken* LongestAt(std::string_view text, size_t at, bool parse_special) const;

  /// sink(stretch, -1) for plain text and sink(content, id) for tokens, in order; together they cover `text`, less the
  /// blanks that lstrip and rstrip take. Special tokens are plain text unless `parse_special`.
  void ForEach(std::string_view text, bool parse_special,
               const std::function<void(std::string_view part, int32_t id)>& sink) const;

  /// The same with special tokens, but for those of whose bytes one is marked: marks [text] '\1'.
  void ForEachMarked(std::string_view text, std::string_view marks,
                     const std::function<void(std::string_view part, int32_t id)>& sink) const;

 private:
  using Finder = std::function<const AddedToken*(size_t at)>;
  void ForEachFound(std::string_view text, const Finder& find,
                    const std::function<void(std::string_view part, int32_t id)>& sink) const;

  PrefixSet<AddedToken, &AddedToken::content> tokens_;
};

}  // namespace hawser
