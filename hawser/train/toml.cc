#include "hawser/train/toml.h"

#include <algorithm>
#include <vector>

#include "hawser/base/depth.h"

namespace hawser {
namespace {

/// Behind the string that begins at text[at] with a quotation mark; where it has no end, some place behind its line.
size_t AfterString(std::string_view text, size_t at) {
  const char quote = text[at];
  const std::string_view three = text.substr(at, 3);
  const bool multiline = three.size() == 3 && three[1] == quote && three[2] == quote;
  for (at += multiline ? 3 : 1; at < text.size(); ++at) {
    if (text[at] == '\\' && quote == '"') {
      ++at;
    } else if (multiline ? text.substr(at, 3) == three : text[at] == quote) {
      at += multiline ? 3 : 1;
      for (int i = 0; multiline && i < 2 && at < text.size() && text[at] == quote; ++i) ++at;  // of the text itself
      return at;
    } else if (!multiline && text[at] == '\n') {
      return at;
    }
  }
  return text.size();
}

/// Levels by brackets and by dots in keys; the parser goes down them without a limit of its own. In a valid document
/// nothing deeper passes; what this makes of an invalid one does not matter, as the parser stops at its first error.
void CheckTomlDepth(std::string_view text) {
  std::vector<int> open;  // levels at each bracket that is open
  int level = 0;
  for (size_t at = 0; at < text.size();) {
    const char c = text[at];
    if (c == '"' || c == '\'') {
      at = AfterString(text, at);
      continue;
    }
    if (c == '#') {
      at = std::min(text.find('\n', at), text.size());
      continue;
    }
    ++at;
    if (c == '[' || c == '{') {
      open.push_back(level);
      CheckDepth(level++, "TOML");
    } else if ((c == ']' || c == '}') && !open.empty()) {
      level = open.back();
      open.pop_back();
    } else if (c == '.') {
      CheckDepth(level++, "TOML");
    } else if (c == ',' || c == '\n') {
      level = open.empty() ? 0 : open.back() + 1;
    }
  }
}

}  // namespace

toml::table ParseToml(std::string_view text, std::string_view origin) {
  WithFrame(origin, [&] { CheckTomlDepth(text); });
  try {
    return toml::parse(text, origin);
  } catch (const toml::parse_error& error) {
    Fail(ErrorKind::kFormat, "{}:{}:{}: not TOML: {}", origin, error.source().begin.line, error.source().begin.column,
         error.description());
  }
}

}  // namespace hawser
