#include "hawser/eval/gsm8k.h"

#include <algorithm>

#include "hawser/eval/python_text.h"

namespace hawser {
namespace {

constexpr const char* kInvalid = "[invalid]";

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsNumeral(char c) { return IsDigit(c) || c == '.' || c == ','; }

/// \-?[0-9.,]+ straight behind the first `lead` where it is; with `one_more` one character of the line follows.
std::string BehindLead(std::string_view text, std::string_view lead, bool one_more) {
  for (size_t at = 0; (at = text.find(lead, at)) != text.npos; ++at) {
    const size_t begin = at + lead.size(), digits = begin + (begin < text.size() && text[begin] == '-' ? 1 : 0);
    size_t end = digits;
    while (end < text.size() && IsNumeral(text[end])) ++end;
    if (one_more && (end == text.size() || text[end] == '\n') && end > digits) --end;  // it is of the number then
    if (end > digits) return std::string(text.substr(begin, end - begin));
  }
  return kInvalid;
}

}  // namespace

std::string Gsm8kStrict(std::string_view text) { return BehindLead(text, "#### ", false); }
std::string Gsm8kCotStrict(std::string_view text) { return BehindLead(text, "The answer is ", true); }

std::string Gsm8kFlexible(std::string_view text) {
  std::string last = kInvalid;  // of (-?[$0-9.,]{2,})|(-?[0-9]+)
  for (size_t at = 0; at < text.size();) {
    const size_t sign = text[at] == '-' ? 1 : 0;
    size_t end = at + sign;
    while (end < text.size() && (IsNumeral(text[end]) || text[end] == '$')) ++end;
    const size_t length = end - at - sign;
    const bool one_digit = length == 1 && IsDigit(text[at + sign]);
    if (length < 2 && !one_digit) {
      ++at;
      continue;
    }
    last = text.substr(at, end - at);
    at = end;
  }
  return last;
}

std::string Gsm8kGold(std::string_view solution) {
  const size_t at = solution.rfind("####");
  return std::string(PythonStrip(at == solution.npos ? solution : solution.substr(at + 4)));
}

std::string Gsm8kNormalized(std::string text) {
  std::erase(text, ',');
  std::erase(text, '$');
  if (const size_t at = text.rfind("#### "); at != text.npos) text.erase(0, at + 5);
  const size_t end = text.ends_with('\n') ? text.size() - 1 : text.size();
  if (end > 0 && text[end - 1] == '.') text.erase(end - 1, 1);
  std::ranges::transform(text, text.begin(),
                         [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c | 32) : c; });
  return text;
}

}  // namespace hawser
