// eval/niah.h - needles in a haystack of real text: one fact over a grid of lengths and depths (Kamradt), and four
// numbers at once (STRING, arXiv 2410.18745).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/tok/tokenizer.h"

namespace hawser {

inline constexpr std::string_view kNeedle =
    "\nThe best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny day.\n";
inline constexpr std::string_view kNeedleQuestion = "What is the best thing to do in San Francisco?";

/// Grades an answer by rule: 10 where it holds both the sandwich and the park, 5 for one of them, else 1.
int JudgeNeedle(std::string_view answer);

/// The share of `numbers` that stand in an answer.
double NumbersFound(std::string_view answer, std::span<const std::string> numbers);

struct HiddenText {
  std::string text;
  std::vector<int64_t> places;  // of the needles, in tokens of the haystack
};

/// The first `tokens` tokens of `haystack` (ids of it) with `needle` at `depth` (0 to 1): moved back to the end of a
/// sentence; depth 1 is behind all.
HiddenText HideNeedle(std::span<const int32_t> haystack, int64_t tokens, std::string_view needle, double depth,
                      const Tokenizer& tokenizer);

/// The same with several at once, each where its depth says.
HiddenText HideNeedles(std::span<const int32_t> haystack, int64_t tokens, std::span<const std::string> needles,
                       std::span<const double> depths, const Tokenizer& tokenizer);

}  // namespace hawser
