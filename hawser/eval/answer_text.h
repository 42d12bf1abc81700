// eval/answer_text.h - what scorers do to an answer before they compare it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace hawser {

/// Without white space at its ends (ASCII).
std::string_view StripText(std::string_view text);

/// Lower case, code point by code point (Unicode's simple mapping).
std::string LowerText(std::string_view text);

/// The words of an English answer as SQuAD compares them: lower case, ASCII punctuation deleted, then split at white
/// space without a, an, the.
std::vector<std::string> AnswerWords(std::string_view text);

/// Chinese, without a dictionary: characters one by one, lower case, without white space and punctuation; runs of ASCII
/// letters and digits are words.
std::vector<std::string> CharacterWords(std::string_view text);

/// The runs of ASCII digits, in order.
std::vector<std::string> DigitRuns(std::string_view text);

}  // namespace hawser
