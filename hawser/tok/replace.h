// tok/replace.h - replacement of text by the files of tokenizers, with a bound on how much it may grow.
#pragma once

#include <string>
#include <string_view>

#include "hawser/base/error.h"

namespace hawser {

/// The most bytes that the steps of a tokenizer may make of a text of `size` bytes.
inline size_t MostGrown(size_t size) { return 64 * size + 256; }

inline void CheckGrown(size_t size, size_t most) {
  if (size > most) {
    Fail(ErrorKind::kUnsupported, "the tokenizer's replacements make more than {} bytes of a short text", most);
  }
}

/// Every `from` (not empty) of `text` becomes `to`, from the left. Errors: kUnsupported beyond `most` bytes.
inline std::string ReplaceText(std::string_view text, std::string_view from, std::string_view to, size_t most) {
  HAWSER_CHECK(!from.empty());
  std::string out;
  size_t done = 0;
  for (size_t at = text.find(from); at != std::string_view::npos; at = text.find(from, done)) {
    out.append(text, done, at - done).append(to);
    CheckGrown(out.size(), most);
    done = at + from.size();
  }
  return out.append(text, done);
}

}  // namespace hawser
