// infer/stream.h - bytes of tokens into text as it may be shown: whole characters, and nothing of a stop string.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace hawser {

class TextStream {
 public:
  /// Errors: kUsage for an empty stop string.
  explicit TextStream(std::vector<std::string> stops);

  /// Takes the bytes of a token; returns the text that is now certain, as valid UTF-8. Held back: the beginning of a
  /// character, and what may turn out to be the beginning of a stop string. Bytes that can be no part of a character
  /// become U+FFFD. Once a stop string is complete, the text ends in front of it and stopped() is true.
  std::string Push(std::string_view bytes);

  /// What was held back, when no more bytes come.
  std::string Finish();

  /// The bytes held back, which a stream that goes on elsewhere is pushed first.
  const std::string& held() const { return pending_; }

  bool stopped() const { return stopped_; }

 private:
  std::string Take(size_t end, bool whole);

  std::vector<std::string> stops_;
  std::string pending_;
  bool stopped_ = false;
};

}  // namespace hawser
