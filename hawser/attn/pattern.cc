#include "hawser/attn/pattern.h"

#include <fmt/format.h>

#include "hawser/base/error.h"
#include "hawser/base/text.h"

namespace hawser {
namespace {

enum Field : unsigned { kScope = 1, kWindow = 2, kSinks = 4, kSep = 8, kAnchors = 16 };

int32_t ParseCount(std::string_view word, std::string_view value, int32_t least) {
  const std::optional<int32_t> count = ParseNumber<int32_t>(value);
  if (!count || *count < least) {
    Fail(ErrorKind::kUsage, "attention pattern: '{}': wanted a whole number of tokens, {} or more", word, least);
  }
  return *count;
}

}  // namespace

AttnPattern ParsePattern(std::string_view text) {
  AttnPattern pattern;
  unsigned given = 0;
  const std::vector<std::string_view> words = SplitWords(text);
  if (words.empty()) Fail(ErrorKind::kUsage, "attention pattern: empty text; the pattern without limits is 'full'");
  for (std::string_view word : words) {
    const size_t equals = word.find('=');
    const std::string_view name = word.substr(0, equals);
    const bool bare = equals == word.npos;
    const std::string_view value = bare ? std::string_view() : word.substr(equals + 1);
    unsigned sets = 0;
    if (bare && name == "full") {
      sets = kScope | kWindow;
    } else if (bare && name == "intra") {
      sets = kScope;
      pattern.scope = Scope::kDocument;
    } else if (bare && name == "anchor") {
      sets = kScope | kAnchors;
      pattern.scope = Scope::kDocument;
      pattern.anchors = 1;
    } else if (bare && name == "sep") {
      sets = kSep;
      pattern.separators = true;
    } else if (name == "scope") {
      sets = kScope;
      if (value != "doc" && value != "seq") {
        Fail(ErrorKind::kUsage, "attention pattern: '{}': wanted scope=doc or scope=seq", word);
      }
      pattern.scope = value == "doc" ? Scope::kDocument : Scope::kSequence;
    } else if (name == "window") {
      sets = kWindow;
      pattern.window = value == "all" ? AttnPattern::kAll : ParseCount(word, value, 1);
    } else if (name == "sinks") {
      sets = kSinks;
      pattern.sinks = ParseCount(word, value, 0);
    } else if (name == "anchors") {
      sets = kAnchors;
      pattern.anchors = ParseCount(word, value, 0);
    } else {
      Fail(ErrorKind::kUsage, "attention pattern: unknown '{}'{}", word,
           SuggestName(name, {"full", "intra", "anchor", "scope", "window", "sinks", "anchors", "sep"}));
    }
    if (given & sets)
      Fail(ErrorKind::kUsage, "attention pattern: '{}' sets a field that '{}' has set before", word, text);
    given |= sets;
  }
  return pattern;
}

std::string ToString(const AttnPattern& pattern) {
  const auto is = [&](const AttnPattern& named) { return pattern == named; };
  if (is({})) return "full";
  if (is({.scope = Scope::kDocument})) return "intra";
  if (is({.scope = Scope::kDocument, .anchors = 1})) return "anchor";
  std::string text;
  if (pattern.scope == Scope::kDocument) text += " scope=doc";
  if (pattern.anchors != 0) text += fmt::format(" anchors={}", pattern.anchors);
  if (pattern.sinks != 0) text += fmt::format(" sinks={}", pattern.sinks);
  if (pattern.window != AttnPattern::kAll) text += fmt::format(" window={}", pattern.window);
  if (pattern.separators) text += " sep";
  return text.substr(1);
}

TokenLayout MakeLayout(int32_t prefix, const std::vector<int32_t>& document_lengths) {
  if (prefix < 0) Fail(ErrorKind::kUsage, "token layout: {} leading tokens; wanted 0 or more", prefix);
  int64_t size = prefix;
  for (size_t d = 0; d < document_lengths.size(); ++d) {
    if (document_lengths[d] < 1) {
      Fail(ErrorKind::kUsage, "token layout: document {} has {} tokens; wanted 1 or more", d, document_lengths[d]);
    }
    size += document_lengths[d];
    if (size > AttnPattern::kAll) Fail(ErrorKind::kUsage, "token layout: more than {} tokens", AttnPattern::kAll);
  }
  TokenLayout layout;
  layout.size = static_cast<int32_t>(size);
  layout.doc_begin.reserve(size);
  layout.doc_begin.assign(prefix, 0);
  for (int32_t length : document_lengths) {
    layout.doc_begin.insert(layout.doc_begin.end(), length, static_cast<int32_t>(layout.doc_begin.size()));
  }
  return layout;
}

}  // namespace hawser
