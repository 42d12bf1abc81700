#include "hawser/infer/grammar.h"

#include <algorithm>
#include <set>

#include "hawser/base/error.h"
#include "hawser/tok/utf8.h"

namespace hawser {
namespace {

constexpr uint32_t kLastCodePoint = 0x10FFFF;

/// Sorted, without overlaps, without what is no character (surrogates, beyond the last).
GrammarBuilder::CodePoints Tidied(GrammarBuilder::CodePoints ranges) {
  GrammarBuilder::CodePoints parts;
  for (auto [from, to] : ranges) {
    to = std::min(to, kLastCodePoint);
    if (from < 0xD800) parts.emplace_back(from, std::min<uint32_t>(to, 0xD7FF));
    if (to > 0xDFFF) parts.emplace_back(std::max<uint32_t>(from, 0xE000), to);
  }
  std::erase_if(parts, [](const auto& range) { return range.first > range.second; });
  std::ranges::sort(parts);
  GrammarBuilder::CodePoints tidy;
  for (const auto& range : parts) {
    if (!tidy.empty() && range.first <= tidy.back().second + 1) {
      tidy.back().second = std::max(tidy.back().second, range.second);
    } else {
      tidy.push_back(range);
    }
  }
  return tidy;
}

std::string Utf8(uint32_t c) {
  std::string bytes;
  AppendUtf8(bytes, c);
  return bytes;
}

}  // namespace

int32_t GrammarBuilder::NewRule(std::string name) {
  Count(1);
  rules_.push_back({.name = std::move(name)});
  return static_cast<int32_t>(rules_.size()) - 1;
}

GrammarBuilder::Item GrammarBuilder::Rule(const std::string& name) {
  const auto known = names_.find(name);
  if (known != names_.end()) return {Grammar::Kind::kRule, known->second};
  const int32_t rule = NewRule(name);
  names_.emplace(name, rule);
  return {Grammar::Kind::kRule, rule};
}

bool GrammarBuilder::Defined(const std::string& name) const {
  const auto known = names_.find(name);
  return known != names_.end() && rules_[static_cast<size_t>(known->second)].defined;
}

void GrammarBuilder::Count(size_t parts) {
  parts_ += parts;
  if (parts_ > kMostParts) Fail(ErrorKind::kFormat, "the grammar has more than {} parts", kMostParts);
}

void GrammarBuilder::Define(const std::string& name, Choices choices) {
  const int32_t rule = Rule(name).value;
  for (const Sequence& sequence : choices) Count(sequence.size() + 1);
  Definition& definition = rules_[static_cast<size_t>(rule)];
  if (definition.defined) Fail(ErrorKind::kFormat, "rule \"{}\" is defined twice", name);
  definition.defined = true;
  definition.choices = std::move(choices);
}

GrammarBuilder::Item GrammarBuilder::OneOf(Choices choices) {
  if (choices.size() == 1 && choices[0].size() == 1) return choices[0][0];
  for (const Sequence& sequence : choices) Count(sequence.size() + 1);
  const int32_t rule = NewRule("");
  rules_[static_cast<size_t>(rule)].choices = std::move(choices);
  rules_[static_cast<size_t>(rule)].defined = true;
  return {Grammar::Kind::kRule, rule};
}

GrammarBuilder::Item GrammarBuilder::Bytes(const Grammar::ByteSet& set) {
  const auto [known, is_new] = set_ids_.emplace(set.to_string(), static_cast<int32_t>(sets_.size()));
  if (is_new) sets_.push_back(set);
  return {Grammar::Kind::kBytes, known->second};
}

GrammarBuilder::Sequence GrammarBuilder::Text(std::string_view text) {
  Sequence sequence;
  for (const char c : text) sequence.push_back(Bytes(Grammar::ByteSet().set(static_cast<unsigned char>(c))));
  return sequence;
}

GrammarBuilder::CodePoints GrammarBuilder::Except(CodePoints ranges) {
  CodePoints rest;
  uint32_t from = 0;
  for (const auto& [first, last] : Tidied(std::move(ranges))) {
    if (first > from) rest.emplace_back(from, first - 1);
    from = last + 1;
  }
  if (from <= kLastCodePoint) rest.emplace_back(from, kLastCodePoint);
  return rest;
}

/// The characters of a range whose bytes are as many, as sequences of sets of bytes.
void GrammarBuilder::AddUtf8(uint32_t from, uint32_t to, Choices* choices) {
  for (const uint32_t last : {0x7Fu, 0x7FFu, 0xFFFFu}) {
    if (from <= last && to > last) {
      AddUtf8(from, last, choices);
      return AddUtf8(last + 1, to, choices);
    }
  }
  const std::string low = Utf8(from);
  const size_t length = low.size();
  // Where the last bytes do not run over all they can, the range is cut there.
  for (size_t tail = 1; tail < length; ++tail) {
    const uint32_t mask = (1u << (6 * tail)) - 1;
    if ((from & ~mask) == (to & ~mask)) continue;
    if ((from & mask) != 0) {
      AddUtf8(from, from | mask, choices);
      return AddUtf8((from | mask) + 1, to, choices);
    }
    if ((to & mask) != mask) {
      AddUtf8(from, (to & ~mask) - 1, choices);
      return AddUtf8(to & ~mask, to, choices);
    }
  }
  const std::string high = Utf8(to);
  Sequence sequence;
  for (size_t i = 0; i < length; ++i) {
    Grammar::ByteSet set;
    for (int b = static_cast<unsigned char>(low[i]); b <= static_cast<unsigned char>(high[i]); ++b) {
      set.set(static_cast<size_t>(b));
    }
    sequence.push_back(Bytes(set));
  }
  choices->push_back(std::move(sequence));
}

GrammarBuilder::Item GrammarBuilder::Class(CodePoints ranges) {
  ranges = Tidied(std::move(ranges));
  const auto known = classes_.find(ranges);
  if (known != classes_.end()) return known->second;
  Choices choices;
  Grammar::ByteSet ascii;
  for (const auto& [from, to] : ranges) {
    for (uint32_t c = from; c <= std::min<uint32_t>(to, 0x7F); ++c) ascii.set(c);
    if (to > 0x7F) AddUtf8(std::max<uint32_t>(from, 0x80), to, &choices);
  }
  if (ascii.any()) choices.push_back({Bytes(ascii)});
  const Item item = OneOf(std::move(choices));
  classes_.emplace(std::move(ranges), item);
  return item;
}

GrammarBuilder::Sequence GrammarBuilder::Repeat(Item item, int64_t least, int64_t most) {
  Count(static_cast<size_t>(std::min<int64_t>(std::max(least, most), kMostParts + 1)));
  Sequence sequence(static_cast<size_t>(least), item);
  if (most < 0) {
    const int32_t rule = NewRule("");
    const Item more = {Grammar::Kind::kRule, rule};
    rules_[static_cast<size_t>(rule)] = {.choices = {{item, more}, {}}, .defined = true};
    sequence.push_back(more);
    return sequence;
  }
  Sequence rest;
  for (int64_t i = least; i < most; ++i) {
    Sequence once = {item};
    once.insert(once.end(), rest.begin(), rest.end());
    rest = {OneOf({std::move(once), {}})};
  }
  sequence.insert(sequence.end(), rest.begin(), rest.end());
  return sequence;
}

std::string GrammarBuilder::NameOf(int32_t rule) const {
  const std::string& name = rules_[static_cast<size_t>(rule)].name;
  return name.empty() ? "a group or repetition" : fmt::format("rule \"{}\"", name);
}

/// Of each rule the fewest levels below it that a text of it takes, -1 where there is no text; with `empty` only texts
/// of nothing count. A rule at the end of a sequence takes the level of the sequence, any other one a level of its own.
std::vector<int32_t> GrammarBuilder::Levels(bool empty) const {
  struct Open {
    int32_t rule;
    const Sequence* sequence;
    size_t missing;  // rules of the sequence whose levels are not known yet
  };
  std::vector<Open> open;
  std::vector<std::vector<size_t>> users(rules_.size());
  for (size_t r = 0; r < rules_.size(); ++r) {
    for (const Sequence& sequence : rules_[r].choices) {
      const auto blocks = [&](const Item& item) {
        return item.kind == Grammar::Kind::kBytes && (empty || sets_[static_cast<size_t>(item.value)].none());
      };
      if (std::ranges::any_of(sequence, blocks)) continue;
      open.push_back({static_cast<int32_t>(r), &sequence, 0});
      for (const Item& item : sequence) {
        if (item.kind != Grammar::Kind::kRule) continue;
        ++open.back().missing;
        users[static_cast<size_t>(item.value)].push_back(open.size() - 1);
      }
    }
  }
  std::vector<int32_t> levels(rules_.size(), -1);
  std::set<std::pair<int32_t, int32_t>> next;  // levels, rule: the fewest first, so that none is found too high
  const auto known = [&](const Open& one) { next.emplace(LevelsOf(*one.sequence, levels), one.rule); };
  for (const Open& one : open) {
    if (one.missing == 0) known(one);
  }
  while (!next.empty()) {
    const auto [level, rule] = *next.begin();
    next.erase(next.begin());
    if (levels[static_cast<size_t>(rule)] >= 0) continue;
    levels[static_cast<size_t>(rule)] = level;
    for (const size_t user : users[static_cast<size_t>(rule)]) {
      if (--open[user].missing == 0) known(open[user]);
    }
  }
  return levels;
}

/// Levels that a sequence takes; those of its rules are known.
int32_t GrammarBuilder::LevelsOf(const Sequence& sequence, const std::vector<int32_t>& levels) {
  int32_t most = 0;
  for (size_t i = 0; i < sequence.size(); ++i) {
    if (sequence[i].kind != Grammar::Kind::kRule) continue;
    most = std::max(most, levels[static_cast<size_t>(sequence[i].value)] + (i + 1 < sequence.size() ? 1 : 0));
  }
  return most;
}

/// Takes away the choices from which no text comes to its end.
void GrammarBuilder::DropEndless(const std::vector<int32_t>& levels) {
  for (Definition& rule : rules_) {
    std::erase_if(rule.choices, [&](const Sequence& sequence) {
      return std::ranges::any_of(sequence, [&](const Item& item) {
        return item.kind == Grammar::Kind::kBytes ? sets_[static_cast<size_t>(item.value)].none()
                                                  : levels[static_cast<size_t>(item.value)] < 0;
      });
    });
  }
}

/// No rule may come again before a byte was read.
void GrammarBuilder::CheckLeft() const {
  const std::vector<int32_t> empty = Levels(/*empty=*/true);
  const auto may_be_empty = [&](const Item& item) {
    return item.kind == Grammar::Kind::kRule && empty[static_cast<size_t>(item.value)] >= 0;
  };
  const auto count = rules_.size();
  std::vector<std::vector<int32_t>> first(count);  // rules that stand first
  for (size_t r = 0; r < count; ++r) {
    for (const Sequence& sequence : rules_[r].choices) {
      for (const Item& item : sequence) {
        if (item.kind == Grammar::Kind::kRule) first[r].push_back(item.value);
        if (!may_be_empty(item)) break;
      }
    }
  }
  enum : uint8_t { kNew, kOpen, kDone };
  std::vector<uint8_t> state(count, kNew);
  for (size_t r = 0; r < count; ++r) {
    if (state[r] != kNew) continue;
    std::vector<std::pair<int32_t, size_t>> path = {{static_cast<int32_t>(r), 0}};
    state[r] = kOpen;
    while (!path.empty()) {
      auto& [rule, next] = path.back();
      const std::vector<int32_t>& of = first[static_cast<size_t>(rule)];
      if (next == of.size()) {
        state[static_cast<size_t>(rule)] = kDone;
        path.pop_back();
        continue;
      }
      const int32_t inner = of[next++];
      if (state[static_cast<size_t>(inner)] == kOpen) {
        // One of the circle that has a name says more.
        int32_t named = inner;
        for (size_t i = path.size(); i-- > 0 && rules_[static_cast<size_t>(named)].name.empty();) {
          named = path[i].first;
          if (named == inner) break;
        }
        Fail(ErrorKind::kFormat,
             "{} can begin with itself (left recursion, or a repetition of what may be empty); let something stand "
             "before it",
             NameOf(named));
      }
      if (state[static_cast<size_t>(inner)] != kNew) continue;
      state[static_cast<size_t>(inner)] = kOpen;
      path.emplace_back(inner, 0);
    }
  }
}

void GrammarBuilder::Flatten(const std::vector<int32_t>& levels, Grammar* grammar) const {
  grammar->sets_ = sets_;
  for (const Definition& rule : rules_) {
    std::vector<int32_t>& starts = grammar->rules_.emplace_back();
    for (const Sequence& sequence : rule.choices) {
      starts.push_back(static_cast<int32_t>(grammar->parts_.size()));
      for (size_t i = 0; i < sequence.size(); ++i) {
        grammar->parts_.push_back({sequence[i].kind, sequence[i].value, 0});
      }
      int32_t need = 0;  // from the end, as LevelsOf
      for (size_t i = sequence.size(); i-- > 0;) {
        if (sequence[i].kind == Grammar::Kind::kRule) {
          need = std::max(need, levels[static_cast<size_t>(sequence[i].value)] + (i + 1 < sequence.size() ? 1 : 0));
        }
        grammar->parts_[static_cast<size_t>(starts.back()) + i].need = need;
      }
      grammar->parts_.push_back({});
    }
  }
}

Grammar GrammarBuilder::Build(Item root, std::string_view endless) {
  for (size_t r = 0; r < rules_.size(); ++r) {
    if (!rules_[r].defined) {
      Fail(ErrorKind::kFormat, "{} is used and not defined", NameOf(static_cast<int32_t>(r)));
    }
  }
  Grammar grammar;
  if (root.kind != Grammar::Kind::kRule) {
    const int32_t rule = NewRule("");
    rules_[static_cast<size_t>(rule)] = {.choices = {{root}}, .defined = true};
    root = {Grammar::Kind::kRule, rule};
  }
  const std::vector<int32_t> levels = Levels(/*empty=*/false);
  const int32_t need = levels[static_cast<size_t>(root.value)];
  if (need < 0) {
    if (!endless.empty()) Fail(ErrorKind::kFormat, "{}", endless);
    Fail(ErrorKind::kFormat, "no text of the grammar ever ends: {} needs itself or a character that cannot be",
         NameOf(root.value));
  }
  if (need + 2 > Grammar::kMostLevels) {
    Fail(ErrorKind::kFormat, "the shortest text has {} rules inside each other, at most {} can be followed", need,
         Grammar::kMostLevels - 2);
  }
  DropEndless(levels);
  CheckLeft();
  grammar.root_ = root.value;
  Flatten(levels, &grammar);
  return grammar;
}

}  // namespace hawser
