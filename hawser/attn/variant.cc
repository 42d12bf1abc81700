#include "hawser/attn/variant.h"

#include <algorithm>
#include <utility>
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

constexpr std::string_view kMultiBos = "multi-bos";

bool IsNamed(std::string_view word) {
  return word == "full" || word == "intra" || word == "anchor" || word == kMultiBos;
}

/// `anchor-tag` is "anchor" and "-tag"; a word that begins with no name is all name.
std::pair<std::string_view, std::string_view> SplitName(std::string_view word) {
  if (word.find('=') != word.npos) return {word, {}};  // full-layers=0
  const size_t from = word.starts_with(kMultiBos) ? kMultiBos.size() : 0;
  const size_t dash = std::min(word.find('-', from), word.size());
  if (!IsNamed(word.substr(0, dash)) || dash + 1 == word.size()) return {word, {}};
  return {word.substr(0, dash), word.substr(dash)};
}

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
  const auto add = [&](std::string_view word) { pattern.append(pattern.empty() ? "" : " ").append(word); };
  for (const std::string_view word : SplitWords(text)) {
    const auto [name, flags] = SplitName(word);
    if (FindFlag(word) != nullptr) {
      set(word);
      continue;
    }
    if (name == kMultiBos) {
      if (std::exchange(variant.multi_bos, true)) {
        Fail(ErrorKind::kUsage, "attention variant '{}': '{}' is given twice", text, kMultiBos);
      }
      add("scope=doc");
    } else {
      add(name);
    }
    if (!flags.empty()) {
      for (const std::string_view flag : SplitAt(flags.substr(1), '-')) set(flag);
    }
  }
  variant.pattern = ParseLayeredPattern(pattern);
  WithFrame(fmt::format("attention variant '{}'", text), [&] { Validate(variant); });
  return variant;
}

void Validate(const AttnVariant& v) {
  const bool documents = v.pattern.scope == Scope::kDocument;
  const auto refuse = [](bool wrong, std::string_view reason) {
    if (wrong) Fail(ErrorKind::kUsage, "{}", reason);
  };
  refuse(v.reset_positions && !documents,
         "reset restarts positions at every document, but documents see each other, so keys would stand behind the "
         "queries that read them; use intra-reset or anchor-reset");
  refuse(v.interleaved && !documents,
         "interleaved lays the chunks of a document side by side and shuffles only positions, but documents see each "
         "other; use intra-interleaved or anchor-interleaved");
  refuse(v.multi_bos && v.reset_positions,
         "multi-bos keeps text at its place in the context, reset moves it to the start; use intra-reset (every "
         "document with BOS at position 0) or anchor-reset");
  refuse(v.multi_bos && v.pattern.anchors > 0,
         "multi-bos copies the anchor into every document, the pattern shares one; use one of the two");
  refuse(v.multi_bos && !documents, "multi-bos needs documents that do not see each other; use scope=doc");
}

std::string ToString(const AttnVariant& variant) {
  std::string text = ToString(variant.pattern);
  if (variant.multi_bos) {
    LayeredPattern rest = variant.pattern;
    rest.scope = Scope::kSequence;
    text = kMultiBos;
    if (rest != AttnPattern{}) text.append(1, ' ').append(ToString(rest));
  }
  const char separator = IsNamed(text) ? '-' : ' ';
  for (const Flag& flag : kFlags) {
    if (variant.*flag.member) text.append(1, separator).append(flag.name);
  }
  return text;
}

}  // namespace hawser
