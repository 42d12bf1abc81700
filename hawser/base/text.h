// base/text.h - small helpers for text forms: words, numbers, and the nearest known name for an error message.
#pragma once

#include <algorithm>
#include <charconv>
#include <initializer_list>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace hawser {

/// The pieces of `text` between characters of `separators`, empty pieces left out.
inline std::vector<std::string_view> SplitWords(std::string_view text, std::string_view separators = " \t") {
  std::vector<std::string_view> words;
  for (size_t begin = 0; (begin = text.find_first_not_of(separators, begin)) != text.npos;) {
    const size_t end = std::min(text.find_first_of(separators, begin), text.size());
    words.push_back(text.substr(begin, end - begin));
    begin = end;
  }
  return words;
}

/// The pieces of `text` between separators, empty ones too: one more than there are separators.
inline std::vector<std::string_view> SplitAt(std::string_view text, char separator) {
  std::vector<std::string_view> pieces;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(separator, begin), text.size());
    pieces.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return pieces;
}

/// The whole of `text` as a number of type T (integer or floating), or nothing if it is anything else or out of range.
template <class T>
std::optional<T> ParseNumber(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// Whether the whole of `text` fits `glob`: * is any text, ? any one character, all else itself.
inline bool GlobMatch(std::string_view glob, std::string_view text) {
  size_t g = 0, t = 0, star = glob.npos, resume = 0;
  while (t < text.size()) {
    if (g < glob.size() && glob[g] == '*') {
      star = g++;
      resume = t;
    } else if (g < glob.size() && (glob[g] == '?' || glob[g] == text[t])) {
      ++g, ++t;
    } else if (star != glob.npos) {  // the last star takes one character more
      g = star + 1;
      t = ++resume;
    } else {
      return false;
    }
  }
  return glob.find_first_not_of('*', g) == glob.npos;
}

/// Levenshtein distance: the fewest insertions, deletions and substitutions of a character that turn a into b.
inline size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0]++;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t substituted = diagonal + (a[i] != b[j]);
      diagonal = row[j + 1];
      row[j + 1] = std::min({substituted, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

/// The end of an error about an unknown name: "; did you mean 'window'? (known: ...)", the guess only where it is near.
/// Of more than eight known names the three nearest are listed.
inline std::string SuggestName(std::string_view name, std::span<const std::string_view> known) {
  constexpr size_t kAll = 8, kNearest = 3;
  std::vector<std::pair<size_t, std::string_view>> near;
  for (std::string_view candidate : known) {
    near.emplace_back(EditDistance(name.substr(0, 64), candidate), candidate);
  }
  std::stable_sort(near.begin(), near.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  const bool guess = !near.empty() && name.size() <= 64 && near[0].first < name.size() / 2 + 1;
  const bool all = known.size() <= kAll;
  std::string text = guess ? "; did you mean '" + std::string(near[0].second) + "'? (" : "; ";
  text += all ? "known: " : "nearest: ";
  for (size_t i = 0; i < (all ? known.size() : kNearest); ++i) {
    text.append(i > 0 ? ", " : "").append(all ? known[i] : near[i].second);
  }
  return guess ? text + ")" : text;
}

inline std::string SuggestName(std::string_view name, std::initializer_list<std::string_view> known) {
  return SuggestName(name, std::span<const std::string_view>(known.begin(), known.size()));
}

}  // namespace hawser
