#include "hawser/tok/added_tokens.h"

#include <algorithm>
#include <utility>

#include "hawser/tok/utf8.h"

namespace hawser {
namespace {

/// The word class of UTS #18: what is alphabetic, marks, decimal numbers, connectors and joiners.
bool IsWord(char32_t c) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  constexpr std::pair<char32_t, char32_t> kOthers[] = {
      {0x200c, 0x200d}, {0x24b6, 0x24e9}, {0x1f130, 0x1f149}, {0x1f150, 0x1f169}, {0x1f170, 0x1f189}};
  if (std::ranges::any_of(kOthers, [&](const auto& range) { return c >= range.first && c <= range.second; }))
    return true;
  return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL) || category == UTF8PROC_CATEGORY_PC;
}

}  // namespace

const AddedToken* AddedTokens::LongestAt(std::string_view text, size_t at, bool parse_special) const {
  const AddedToken* longest = nullptr;
  tokens_.ForEachAt(text, at, [&](const AddedToken& token) {
    if (!token.special || parse_special) longest = &token;
  });
  return longest;
}

void AddedTokens::ForEach(std::string_view text, bool parse_special,
                          const std::function<void(std::string_view, int32_t)>& sink) const {
  ForEachFound(
      text, [&](size_t at) { return LongestAt(text, at, parse_special); }, sink);
}

void AddedTokens::ForEachMarked(std::string_view text, std::string_view marks,
                                const std::function<void(std::string_view, int32_t)>& sink) const {
  const auto find = [&](size_t at) {
    const AddedToken* token = LongestAt(text, at, true);
    const bool given = token != nullptr && marks.substr(at, token->content.size()).find('\1') != marks.npos;
    return given && token->special ? LongestAt(text, at, false) : token;
  };
  ForEachFound(text, find, sink);
}

void AddedTokens::ForEachFound(std::string_view text, const Finder& find,
                               const std::function<void(std::string_view, int32_t)>& sink) const {
  size_t done = 0;
  for (size_t at = 0; at < text.size() && !empty();) {
    const AddedToken* token = tokens_.MayBegin(text[at]) ? find(at) : nullptr;
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
