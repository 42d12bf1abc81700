// eval/token_spans.h - where the tokens of a text lie in it, in bytes, so that what one tokenizer's tokens are found to
// be can be said of another's.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "hawser/tok/tokenizer.h"

namespace hawser {

/// Bytes [begin, end) of a text.
struct ByteSpan {
  int64_t begin = 0, end = 0;

  bool operator==(const ByteSpan&) const = default;
};

/// Of each of `ids`, which `tokenizer` made of `text`, in order. Where the tokenizer changes the text (composed
/// accents, blanks put together) the tokens of a changed place have that place in common. Errors: kUnsupported naming
/// the byte where tokens and text do not meet again.
std::vector<ByteSpan> TokenSpans(const Tokenizer& tokenizer, std::string_view text, std::span<const int32_t> ids);

/// Ascending spans as the fewest: those that touch become one, empty ones none.
std::vector<ByteSpan> MergeSpans(std::span<const ByteSpan> spans);

/// [tokens]: 1 where a token is not empty and lies inside one of `merged`.
std::vector<uint8_t> TokensInside(std::span<const ByteSpan> tokens, std::span<const ByteSpan> merged);

/// The beginning of `text` that its first `most` tokens stand for, cut between characters: all of it where it has no
/// more.
std::string_view CutToTokens(const Tokenizer& tokenizer, std::string_view text, int64_t most);

}  // namespace hawser
