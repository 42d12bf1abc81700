#include "hawser/attn/variant.h"

#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/text.h"

namespace hawser {
namespace {

struct Flag {
  std::string_view name;
  bool AttnVariant::*member;
};
constexpr Flag kFlags[] = {
    {"reset", &AttnVariant::reset_positions}, {"tag", &AttnVariant::tags}, {"interleaved", &AttnVariant::interleaved}};

const Flag* FindFlag(std::string_view name) {
  for (const Flag& flag : kFlags) {
    if (flag.name == name) return &flag;
  }
  return nullptr;
}

bool IsNamed(std::string_view word) { return word == "full" || word == "intra" || word == "anchor"; }

}  // namespace

AttnVariant ParseVariant(std::string_view text) {
  AttnVariant variant;
  std::string pattern;
  const auto set = [&](std::string_view name) {
    const Flag* flag = FindFlag(name);
    if (flag == nullptr) {
      Fail(ErrorKind::kUsage, "attention variant '{}': unknown '{}'{}", text, name,
           SuggestName(name, {"reset", "tag", "interleaved"}));
    }
    if (variant.*flag->member) Fail(ErrorKind::kUsage, "attention variant '{}': '{}' is given twice", text, name);
    variant.*flag->member = true;
  };
  for (std::string_view word : SplitWords(text)) {
    const std::vector<std::string_view> parts = SplitWords(word, "-");
    if (FindFlag(word) != nullptr) {
      set(word);
    } else if (parts.size() > 1 && IsNamed(parts[0])) {
      pattern.append(pattern.empty() ? "" : " ").append(parts[0]);
      for (size_t i = 1; i < parts.size(); ++i) set(parts[i]);
    } else {
      pattern.append(pattern.empty() ? "" : " ").append(word);
    }
  }
  variant.pattern = ParsePattern(pattern);
  return variant;
}

std::string ToString(const AttnVariant& variant) {
  std::string text = ToString(variant.pattern);
  const char separator = IsNamed(text) ? '-' : ' ';
  for (const Flag& flag : kFlags) {
    if (variant.*flag.member) text.append(1, separator).append(flag.name);
  }
  return text;
}

}  // namespace hawser
