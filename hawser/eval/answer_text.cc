#include "hawser/eval/answer_text.h"

#include <algorithm>

#include "hawser/eval/python_text.h"
#include "hawser/tok/utf8.h"

namespace hawser {
namespace {

bool IsPunct(char c) {
  return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
}

/// Punctuation and white space of Unicode.
bool IsFiller(char32_t c) {
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return (category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_ZP) || c <= 0x20 || c == 0x3000;
}

}  // namespace

std::string LowerText(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = CodePointAt(text, at);
    if (c.length == 0) {
      out += text[at++];
      continue;
    }
    AppendUtf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c.value))));
    at += c.length;
  }
  return out;
}

std::vector<std::string> AnswerWords(std::string_view text) {
  std::string plain = LowerText(text);
  std::erase_if(plain, IsPunct);
  for (const std::string_view run : RunsOf(plain, IsPythonWordCharacter)) {
    if (run != "a" && run != "an" && run != "the") continue;
    std::fill_n(plain.begin() + (run.data() - plain.data()), run.size(), ' ');
  }
  const std::vector<std::string_view> words = PythonWords(plain);
  return {words.begin(), words.end()};
}

std::vector<std::string> CharacterWords(std::string_view text) {
  const std::string lower = LowerText(text);
  std::vector<std::string> words;
  bool joins = false;  // the word before is of letters, and so is this character
  for (size_t at = 0; at < lower.size();) {
    const CodePoint c = CodePointAt(lower, at);
    const size_t length = std::max<size_t>(c.length, 1);
    const std::string_view piece = std::string_view(lower).substr(at, length);
    at += length;
    if (c.length == 0 || IsFiller(c.value)) {
      joins = false;
      continue;
    }
    const bool letter = c.value < 0x80;
    if (joins && letter) {
      words.back() += piece;
    } else {
      words.emplace_back(piece);
    }
    joins = letter;
  }
  return words;
}

std::vector<std::string> DigitRuns(std::string_view text) {
  const std::vector<std::string_view> runs = RunsOf(text, IsPythonDigit);
  return {runs.begin(), runs.end()};
}

}  // namespace hawser
