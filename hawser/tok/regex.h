// tok/regex.h - the regular expressions of tokenizer files, written for Oniguruma, run by PCRE2.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace hawser {

/// A compiled pattern; copies share it, and matching is safe from several threads.
class Regex {
 public:
  /// Translates what the two engines read differently (\s, \w, \h, nested classes) and compiles with full Unicode
  /// classes. Errors: kUnsupported naming the pattern and what PCRE2 said.
  explicit Regex(std::string_view pattern);

  /// sink(begin, end) for every match, left to right, none overlapping; an empty one not straight behind another.
  /// `text` must be UTF-8. Errors: kUnsupported where a match needs more than ten million steps or 64 MiB.
  void ForEachMatch(std::string_view text, const std::function<void(size_t, size_t)>& sink) const;

 private:
  std::shared_ptr<const void> code_;
  std::string pattern_;
};

/// `text` with every special character of a pattern escaped.
std::string QuoteRegex(std::string_view text);

}  // namespace hawser
