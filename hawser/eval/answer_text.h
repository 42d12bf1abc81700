// eval/answer_text.h - what scorers do to an answer before they compare it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace hawser {

/// Lower case, code point by code point (Unicode's simple mapping).
std::string LowerText(std::string_view text);

/// The words of an English answer as SQuAD compares them: lower case, ASCII punctuation deleted, a, an and the replaced
/// by blanks where they are whole words (\b), then split at white space.
std::vector<std::string> AnswerWords(std::string_view text);

/// Chinese, without a dictionary: characters one by one, lower case, without white space and punctuation; runs of ASCII
/// letters and digits are words.
std::vector<std::string> CharacterWords(std::string_view text);

/// The runs of digits (\d: of any script), in order.
std::vector<std::string> DigitRuns(std::string_view text);

}  // namespace hawser
