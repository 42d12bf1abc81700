// eval/gsm8k.h - the answers in worked solutions of GSM8K, as lm-evaluation-harness finds and compares them.
#pragma once

#include <string>
#include <string_view>

namespace hawser {

/// The first number behind "#### "; the first behind "The answer is "; the last number of all. "[invalid]" where there
/// is none.
std::string Gsm8kStrict(std::string_view text);
std::string Gsm8kCotStrict(std::string_view text);
std::string Gsm8kFlexible(std::string_view text);

/// What stands behind the last "####" of a solution, without blanks around.
std::string Gsm8kGold(std::string_view solution);
/// Without commas, dollar signs, all up to the last "#### " and a full stop at the end; in lower case.
std::string Gsm8kNormalized(std::string text);

}  // namespace hawser
