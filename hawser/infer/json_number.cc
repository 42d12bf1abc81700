// Numbers between bounds, digit by digit.
#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

#include "hawser/base/error.h"
#include "hawser/infer/json_parts.h"

namespace hawser {
namespace {

using Item = GrammarBuilder::Item;
using Sequence = GrammarBuilder::Sequence;
using Choices = GrammarBuilder::Choices;

constexpr int kMostDigits = 15;           // of a whole number without bounds: those that a double holds
constexpr int64_t kMostMultiples = 2048;  // that are listed

/// The digits of a magnitude, exactly.
Decimal DecimalOf(double value) {
  const std::string shortest = fmt::format("{}", std::abs(value));  // that reads back as the same
  std::string digits;
  int64_t point = 0, exponent = 0;
  bool behind = false;
  for (size_t i = 0; i < shortest.size(); ++i) {
    const char c = shortest[i];
    if (c == 'e') {
      exponent = std::stoll(shortest.substr(i + 1));
      break;
    }
    if (c == '.') {
      behind = true;
    } else {
      digits += c;
      if (!behind) ++point;
    }
  }
  point += exponent;
  if (std::abs(point) > 40) Fail(ErrorKind::kUnsupported, "a bound of {} is too far from 1", value);
  Decimal decimal;
  if (point > static_cast<int64_t>(digits.size())) digits.append(static_cast<size_t>(point) - digits.size(), '0');
  if (point < 0) {
    digits.insert(0, static_cast<size_t>(-point), '0');
    point = 0;
  }
  decimal.whole = digits.substr(0, static_cast<size_t>(point));
  decimal.fraction = digits.substr(static_cast<size_t>(point));
  decimal.whole.erase(0, std::min(decimal.whole.find_first_not_of('0'), decimal.whole.size()));
  if (decimal.whole.empty()) decimal.whole = "0";
  decimal.fraction.erase(decimal.fraction.find_last_not_of('0') + 1);
  return decimal;
}

/// The digits of numbers whose whole part has a given length, between two bounds of that length. A way through them is
/// `low` as long as it has the digits of the lower bound, and so with `high`.
class DigitWays {
 public:
  DigitWays(GrammarBuilder* b, Decimal low, bool low_open, Decimal high, bool high_open, int fraction)
      : b_(*b), low_(std::move(low)), high_(std::move(high)), low_open_(low_open), high_open_(high_open) {
    fraction_ =
        fraction == 0
            ? 0
            : static_cast<int>(std::max({static_cast<size_t>(fraction), low_.fraction.size(), high_.fraction.size()}));
    if (fraction < kMostDigits) fraction_ = fraction;
  }

  Item Whole(size_t i, bool low, bool high) {
    const auto [known, is_new] = whole_.emplace(std::tuple(i, low, high), Item());
    if (!is_new) return known->second;
    Choices choices;
    const size_t length = low_.whole.size();
    if (i == length) {
      if (MayEnd(0, low, high)) choices.emplace_back();
      if (fraction_ > 0) {
        Sequence more = b_.Text(".");
        more.push_back(Fraction(0, low, high));
        choices.push_back(std::move(more));
      }
    } else {
      const char first = low ? low_.whole[i] : i == 0 && length > 1 ? '1' : '0';
      const char last = high ? high_.whole[i] : '9';
      AddDigits(
          first, last, low, high, [&](bool l, bool h) { return Whole(i + 1, l, h); }, &choices);
    }
    const Item item = b_.OneOf(std::move(choices));
    whole_[std::tuple(i, low, high)] = item;
    return item;
  }

 private:
  /// Digits from first to last, those at a bound on ways of their own.
  template <class Next>
  void AddDigits(char first, char last, bool low, bool high, Next&& next, Choices* choices) {
    const auto add = [&](char from, char to, bool l, bool h) {
      if (from <= to) choices->push_back({b_.Class({{from, to}}), next(l, h)});
    };
    if (first > last) return;
    if (first == last) return add(first, last, low, high);
    if (low) add(first, first, true, false);
    if (high) add(last, last, false, true);
    add(static_cast<char>(first + (low ? 1 : 0)), static_cast<char>(last - (high ? 1 : 0)), false, false);
  }
  /// Behind j digits of the fraction.
  bool MayEnd(size_t j, bool low, bool high) const {
    if (low && (j < low_.fraction.size() || low_open_)) return false;
    return !high || !high_open_ || j < high_.fraction.size();
  }
  Item Fraction(size_t j, bool low, bool high) {
    const auto [known, is_new] = fractions_.emplace(std::tuple(j, low, high), Item());
    if (!is_new) return known->second;
    Choices choices;
    if (j > 0 && MayEnd(j, low, high)) choices.emplace_back();
    if (j < static_cast<size_t>(fraction_)) {
      const char first = low && j < low_.fraction.size() ? low_.fraction[j] : '0';
      const char last = !high ? '9' : j < high_.fraction.size() ? high_.fraction[j] : '0';
      AddDigits(
          first, last, low, high, [&](bool l, bool h) { return Fraction(j + 1, l, h); }, &choices);
    }
    const Item item = b_.OneOf(std::move(choices));
    fractions_[std::tuple(j, low, high)] = item;
    return item;
  }

  GrammarBuilder& b_;
  Decimal low_, high_;
  bool low_open_, high_open_;
  int fraction_;
  std::map<std::tuple<size_t, bool, bool>, Item> whole_, fractions_;
};

}  // namespace

/// Numbers without a sign from low to high; no high: of 15 digits at most, or of as many as low has and one more.
Item JsonParts::Magnitude(const Decimal& low, bool low_open, const std::optional<Decimal>& high, bool high_open,
                          int fraction) {
  const size_t least = low.whole.size();
  const size_t most = high ? high->whole.size() : std::max<size_t>(kMostDigits, least + 1);
  Choices choices;
  for (size_t length = least; length <= most; ++length) {
    const bool at_low = length == least, at_high = high && length == most;
    const Decimal from = at_low ? low : Decimal{.whole = "1" + std::string(length - 1, '0')};
    const Decimal to = at_high ? *high : Decimal{.whole = std::string(length, '9')};
    DigitWays ways(&b_, from, at_low && low_open, to, at_high && high_open, fraction);
    choices.push_back({ways.Whole(0, at_low, at_high)});
  }
  return b_.OneOf(std::move(choices));
}

/// Whole numbers that `number` divides, without bounds.
Item JsonParts::MultipleOf(int64_t number) {
  int64_t zeros = 0;
  for (; number % 10 == 0; number /= 10) ++zeros;
  if (number > 200) {
    Fail(ErrorKind::kUnsupported, "\"multipleOf\" {} without both bounds is not supported", number);
  }
  // By what is left of the digits so far, and how many more there may be.
  std::map<std::pair<int64_t, int>, Item> ways;
  const auto way = [&](auto& self, int64_t left, int more) -> Item {
    const auto [known, is_new] = ways.emplace(std::pair(left, more), Item());
    if (!is_new) return known->second;
    Choices choices;
    if (left == 0) choices.emplace_back();
    if (more > 0) {
      for (char c = '0'; c <= '9'; ++c) {
        choices.push_back({b_.Class({{c, c}}), self(self, (left * 10 + (c - '0')) % number, more - 1)});
      }
    }
    const Item item = b_.OneOf(std::move(choices));
    ways[std::pair(left, more)] = item;
    return item;
  };
  Choices choices = {b_.Text("0")};
  for (char c = '1'; c <= '9'; ++c) {
    Sequence digits = b_.Text("-");
    digits = {b_.OneOf({digits, {}}), b_.Class({{c, c}}), way(way, (c - '0') % number, 8)};
    const Sequence end = b_.Text(std::string(static_cast<size_t>(zeros), '0'));
    digits.insert(digits.end(), end.begin(), end.end());
    choices.push_back(std::move(digits));
  }
  return b_.OneOf(std::move(choices));
}

Item JsonParts::Number(const NumberBounds& bounds) {
  if (bounds.multiple_of > 1) {
    if (!bounds.low || !bounds.high) {
      if (!bounds.low && !bounds.high) return MultipleOf(bounds.multiple_of);
      Fail(ErrorKind::kUnsupported, "\"multipleOf\" with one bound is not supported; give none or both");
    }
    if (!(std::max(std::abs(bounds.low->value), std::abs(bounds.high->value)) < 0x1p53)) {
      Fail(ErrorKind::kUnsupported, "\"multipleOf\" with bounds beyond 2^53 is not supported");
    }
    const double step = static_cast<double>(bounds.multiple_of);
    const double first = std::ceil(bounds.low->value / step), last = std::floor(bounds.high->value / step);
    if (last - first > kMostMultiples) {
      Fail(ErrorKind::kUnsupported, "\"multipleOf\" {} leaves more than {} numbers between its bounds",
           bounds.multiple_of, kMostMultiples);
    }
    Choices choices;
    for (double k = first; k <= last; ++k) {
      const double value = k * step;
      if ((bounds.low->open && value == bounds.low->value) || (bounds.high->open && value == bounds.high->value)) {
        continue;
      }
      choices.push_back(b_.Text(fmt::format("{}", static_cast<int64_t>(value))));
    }
    return b_.OneOf(std::move(choices));
  }
  const bool free = !bounds.low && !bounds.high;
  const std::string name = fmt::format("json-number-{}", bounds.fraction);
  if (free && b_.Defined(name)) return b_.Rule(name);
  Choices choices;
  const auto& [low, high, fraction, ignored] = bounds;
  if (!high || high->value >= 0) {
    const bool above = low && low->value >= 0;
    const Decimal from = above ? DecimalOf(low->value) : Decimal{};
    const std::optional<Decimal> to = high ? std::optional(DecimalOf(high->value)) : std::nullopt;
    choices.push_back({Magnitude(from, above && low->open, to, high && high->open, fraction)});
  }
  if (!low || low->value < 0) {
    const bool below = high && high->value < 0;
    const Decimal from = below ? DecimalOf(high->value) : Decimal{};
    const std::optional<Decimal> to = low ? std::optional(DecimalOf(low->value)) : std::nullopt;
    Sequence negative = b_.Text("-");
    negative.push_back(Magnitude(from, below ? high->open : true, to, low && low->open, fraction));
    choices.push_back(std::move(negative));
  }
  if (free && fraction > 0) {  // with an exponent, too
    Sequence all = {b_.OneOf(std::move(choices))};
    Sequence exponent = {b_.Class({{'e', 'e'}, {'E', 'E'}}), b_.OneOf({{b_.Class({{'+', '+'}, {'-', '-'}})}, {}})};
    const Sequence digits = b_.Repeat(b_.Class({{'0', '9'}}), 1, 2);
    exponent.insert(exponent.end(), digits.begin(), digits.end());
    all.push_back(b_.OneOf({std::move(exponent), {}}));
    choices = {std::move(all)};
  }
  if (!free) return b_.OneOf(std::move(choices));
  b_.Define(name, std::move(choices));
  return b_.Rule(name);
}

}  // namespace hawser
