// eval/python_text.h - what Python's str methods and re call blanks, digits and words: scorers were written in it.
#pragma once

#include <string_view>
#include <vector>

#include "hawser/tok/utf8.h"

namespace hawser {

inline bool IsPythonBlank(char32_t c) { return IsBlank(c) || (c >= 0x1C && c <= 0x1F); }

inline bool IsPythonDigit(char32_t c) {  // \d
  return utf8proc_category(static_cast<utf8proc_int32_t>(c)) == UTF8PROC_CATEGORY_ND;
}

inline bool IsPythonWordCharacter(char32_t c) {  // \w
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  const bool letter = category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
  return letter || (category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO) || c == '_';
}

/// The longest pieces of `text` whose characters `belong(c)`; bytes that are not UTF-8 are U+FFFD.
template <class Belong>
std::vector<std::string_view> RunsOf(std::string_view text, const Belong& belong) {
  std::vector<std::string_view> runs;
  bool inside = false;
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = CodePointAt(text, at);
    const size_t length = c.length > 0 ? c.length : 1;
    const bool belongs = belong(c.length > 0 ? c.value : U'\uFFFD');
    if (belongs && inside) {
      runs.back() = {runs.back().data(), runs.back().size() + length};
    } else if (belongs) {
      runs.push_back(text.substr(at, length));
    }
    inside = belongs;
    at += length;
  }
  return runs;
}

/// str.split()
inline std::vector<std::string_view> PythonWords(std::string_view text) {
  return RunsOf(text, [](char32_t c) { return !IsPythonBlank(c); });
}

/// Bytes of `text` before the blanks at its end.
inline size_t PythonRstrip(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    const size_t start = StartOfLast(text, end);
    const CodePoint last = CodePointAt(text, start);
    if (last.length != end - start || !IsPythonBlank(last.value)) break;
    end = start;
  }
  return end;
}

inline std::string_view PythonStrip(std::string_view text) {
  text = text.substr(0, PythonRstrip(text));
  while (!text.empty()) {
    const CodePoint first = CodePointAt(text, 0);
    if (first.length == 0 || !IsPythonBlank(first.value)) break;
    text.remove_prefix(first.length);
  }
  return text;
}

}  // namespace hawser
