#include "hawser/eval/token_spans.h"

#include <algorithm>
#include <string>

#include "hawser/base/error.h"

namespace hawser {
namespace {

constexpr size_t kMeet = 8;      // bytes that agree where two texts meet again
constexpr size_t kSearch = 256;  // bytes of both that may lie between

/// Where the boundaries of `decoded` lie in `text`: as beginnings and as ends of tokens.
struct Boundaries {
  std::vector<int64_t> begin, end;  // [decoded + 1]
};

bool Meets(std::string_view a, std::string_view b) {
  const size_t n = std::min({kMeet, a.size(), b.size()});
  // The shorter rest has to be all there is of both.
  return (n == kMeet || a.size() == b.size()) && a.substr(0, n) == b.substr(0, n);
}

Boundaries Align(std::string_view decoded, std::string_view text) {
  Boundaries at{std::vector<int64_t>(decoded.size() + 1), std::vector<int64_t>(decoded.size() + 1)};
  size_t d = 0, t = 0;
  at.end[0] = 0;
  while (d < decoded.size() || t < text.size()) {
    if (d < decoded.size() && t < text.size() && decoded[d] == text[t]) {
      at.begin[d++] = static_cast<int64_t>(t++);
      at.end[d] = static_cast<int64_t>(t);
      continue;
    }
    size_t more_d = 0, more_t = 0;
    bool found = false;
    for (size_t sum = 1; sum <= kSearch && !found; ++sum) {
      for (more_d = 0; more_d <= sum && !found; ++more_d) {
        more_t = sum - more_d;
        if (d + more_d > decoded.size() || t + more_t > text.size()) continue;
        found = Meets(decoded.substr(d + more_d), text.substr(t + more_t));
      }
      if (found) --more_d;
    }
    if (!found) {
      Fail(ErrorKind::kUnsupported, "the tokenizer rewrites the text from byte {} on: its tokens have no places in it",
           t);
    }
    for (size_t i = 0; i < more_d; ++i) {
      at.begin[d + i] = static_cast<int64_t>(t);
      at.end[d + i + 1] = static_cast<int64_t>(t + more_t);
    }
    d += more_d, t += more_t;
  }
  return at;
}

}  // namespace

std::vector<ByteSpan> TokenSpans(const Tokenizer& tokenizer, std::string_view text, std::span<const int32_t> ids) {
  std::string decoded;
  std::vector<size_t> ends;
  for (const int32_t id : ids) {
    decoded += tokenizer.Piece(id);
    ends.push_back(decoded.size());
  }
  const size_t blank = tokenizer.adds_dummy_prefix() && decoded.starts_with(' ') ? 1 : 0;
  const std::string_view rest = std::string_view(decoded).substr(blank);
  std::vector<ByteSpan> spans(ids.size());
  if (rest == text) {
    int64_t begin = 0;
    for (size_t i = 0; i < ids.size(); ++i) {
      const auto end = static_cast<int64_t>(std::max(ends[i], blank) - blank);
      spans[i] = {begin, end};
      begin = end;
    }
    return spans;
  }
  const Boundaries at = Align(rest, text);
  size_t before = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    const size_t end = std::max(ends[i], blank) - blank;
    if (end > before) {
      spans[i] = {at.begin[before], at.end[end]};
    } else {
      spans[i] = {at.end[end], at.end[end]};
    }
    before = end;
  }
  return spans;
}

std::vector<ByteSpan> MergeSpans(std::span<const ByteSpan> spans) {
  std::vector<ByteSpan> merged;
  for (const ByteSpan& span : spans) {
    if (span.begin >= span.end) continue;
    if (!merged.empty() && span.begin <= merged.back().end) {
      merged.back().end = std::max(merged.back().end, span.end);
    } else {
      merged.push_back(span);
    }
  }
  return merged;
}

std::vector<uint8_t> TokensInside(std::span<const ByteSpan> tokens, std::span<const ByteSpan> merged) {
  std::vector<uint8_t> inside(tokens.size(), 0);
  for (size_t i = 0; i < tokens.size(); ++i) {
    const auto after =
        std::ranges::upper_bound(merged, tokens[i].begin, {}, [](const ByteSpan& span) { return span.begin; });
    if (after == merged.begin() || tokens[i].begin >= tokens[i].end) continue;
    inside[i] = tokens[i].end <= std::prev(after)->end ? 1 : 0;
  }
  return inside;
}

std::string_view CutToTokens(const Tokenizer& tokenizer, std::string_view text, int64_t most) {
  const std::vector<int32_t> ids = tokenizer.Encode(text);
  if (static_cast<int64_t>(ids.size()) <= most) return text;
  if (most <= 0) return text.substr(0, 0);
  auto end = static_cast<size_t>(TokenSpans(tokenizer, text, ids)[static_cast<size_t>(most) - 1].end);
  while (end > 0 && end < text.size() && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return text.substr(0, end);
}

}  // namespace hawser
