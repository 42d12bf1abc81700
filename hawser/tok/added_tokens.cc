#include "hawser/tok/added_tokens.h"

#include <algorithm>
#include <utility>

#include "hawser/tok/utf8.h"

namespace hawser {
namespace {

bool IsBlank(char32_t c) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return (c >= 0x09 && c <= 0x0D) || c == 0x85 || category == UTF8PROC_CATEGORY_ZS ||
         category == UTF8PROC_CATEGORY_ZL || category == UTF8PROC_CATEGORY_ZP;
}

bool IsWord(char32_t c) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL) || category == UTF8PROC_CATEGORY_PC;
}

/// Start of the character that ends at `end` (> 0).
size_t StartOfLast(std::string_view text, size_t end) {
  size_t start = end - 1;
  while (start > 0 && (static_cast<unsigned char>(text[start]) & 0xC0) == 0x80) --start;
  return start;
}

}  // namespace

void AddedTokens::Add(AddedToken token) {
  if (token.content.empty()) return;
  auto& bucket = by_first_byte_[static_cast<unsigned char>(token.content[0])];
  const auto place = std::find_if(bucket.begin(), bucket.end(),
                                  [&](const AddedToken& other) { return other.content.size() < token.content.size(); });
  bucket.insert(place, std::move(token));
  empty_ = false;
}

const AddedToken* AddedTokens::LongestAt(std::string_view text, size_t at, bool parse_special) const {
  for (const AddedToken& token : by_first_byte_[static_cast<unsigned char>(text[at])]) {
    if ((!token.special || parse_special) && text.substr(at).starts_with(token.content)) return &token;
  }
  return nullptr;
}

void AddedTokens::ForEach(std::string_view text, bool parse_special,
                          const std::function<void(std::string_view, int32_t)>& sink) const {
  size_t done = 0;
  for (size_t at = 0; at < text.size() && !empty_;) {
    const AddedToken* token = LongestAt(text, at, parse_special);
    if (token == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at;
    size_t end = at + token->content.size();
    at = end;
    if (token->single_word) {
      const bool touched_left = begin > 0 && IsWord(CodePointAt(text, StartOfLast(text, begin)).value);
      const bool touched_right = end < text.size() && IsWord(CodePointAt(text, end).value);
      if (touched_left || touched_right) continue;
    }
    while (token->lstrip && begin > done && IsBlank(CodePointAt(text, StartOfLast(text, begin)).value)) {
      begin = StartOfLast(text, begin);
    }
    while (token->rstrip && end < text.size() && IsBlank(CodePointAt(text, end).value)) {
      end += CodePointAt(text, end).length;
    }
    if (begin > done) sink(text.substr(done, begin - done), -1);
    sink(token->content, token->id);
    done = end;  // a token that starts among the blanks taken along is still found, as in the reference
  }
  if (done < text.size()) sink(text.substr(done), -1);
}

}  // namespace hawser
