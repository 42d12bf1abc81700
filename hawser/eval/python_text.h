// eval/python_text.h - what Python's str methods and \s call a blank.
#pragma once

#include <string_view>

#include "hawser/tok/utf8.h"

namespace hawser {

inline bool IsPythonBlank(char32_t c) { return IsBlank(c) || (c >= 0x1C && c <= 0x1F); }

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
