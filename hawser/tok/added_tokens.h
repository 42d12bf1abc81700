// tok/added_tokens.h - the "added_tokens" of a tokenizer.json: whole strings taken out of the text before it is split.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

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
  /// A token with empty content is never found.
  void Add(AddedToken token);

  /// sink(stretch, -1) for plain text and sink(content, id) for tokens, in order; together they cover `text`, less the
  /// blanks that lstrip and rstrip take. Special tokens are plain text unless `parse_special`.
  void ForEach(std::string_view text, bool parse_special,
               const std::function<void(std::string_view part, int32_t id)>& sink) const;

 private:
  const AddedToken* LongestAt(std::string_view text, size_t at, bool parse_special) const;

  std::array<std::vector<AddedToken>, 256> by_first_byte_;  // longest first
  bool empty_ = true;
};

}  // namespace hawser
