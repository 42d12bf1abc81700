#include "hawser/kv/keep_rule.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "hawser/base/error.h"

namespace hawser {
namespace {

constexpr std::array<std::string_view, 3> kRuleNames = {"share", "mass", "quantile"};

}  // namespace

KeepRule ParseKeepRule(std::string_view text) {
  const size_t sign = text.find('=');
  const std::string_view name = sign == std::string_view::npos ? "share" : text.substr(0, sign);
  const std::string_view number = sign == std::string_view::npos ? text : text.substr(sign + 1);
  const auto kind = std::ranges::find(kRuleNames, name) - kRuleNames.begin();
  KeepRule rule{.kind = static_cast<KeepRule::Kind>(kind)};
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), rule.value);
  const bool is_number = error == std::errc() && end == number.data() + number.size();
  const bool is_quantile = rule.kind == KeepRule::Kind::kQuantile;
  const bool fits = is_quantile ? rule.value >= 0 && rule.value < 1 : rule.value > 0 && rule.value <= 1;
  if (kind < static_cast<ptrdiff_t>(kRuleNames.size()) && is_number && fits) return rule;
  Fail(
      ErrorKind::kUsage,
      "what to keep of a prefix is a share of its keys (0.1), mass=M with M in (0, 1], or quantile=Q with Q in [0, 1), "
      "found '{}'",
      text);
}

std::string ToString(const KeepRule& rule) {
  const std::string number = fmt::format("{}", rule.value);
  return rule.kind == KeepRule::Kind::kShare ? number
                                             : fmt::format("{}={}", kRuleNames[static_cast<size_t>(rule.kind)], number);
}

void ClusterChooser::List(std::span<const int32_t> counts) {
  order_.clear();
  for (size_t j = 0; j < counts.size(); ++j) {
    if (counts[j] > 0) order_.push_back(static_cast<int32_t>(j));
  }
}

/// The longest prefix of the list, ordered by score, with a weight of `limit` at most; and_next: and the one behind it.
/// Scores are put into equal buckets, best first, so that only those of the bucket where the limit lies are sorted.
template <class WeightOf>
std::span<const int32_t> ClusterChooser::Best(std::span<const float> scores, std::span<const int32_t> counts,
                                              double limit, const WeightOf& weight_of, bool and_next) {
  constexpr int32_t kBuckets = 256, kChosen = -1;
  List(counts);
  if (order_.empty()) return order_;
  const auto score = [&](int32_t j) { return scores[static_cast<size_t>(j)]; };
  double least = score(order_[0]), most = least;
  for (const int32_t j : order_) {
    least = std::min<double>(least, score(j));
    most = std::max<double>(most, score(j));
  }
  const double per_score = most > least ? (kBuckets - 1) / (most - least) : 0;
  std::array<double, kBuckets> weights = {};
  bucket_.clear();
  for (const int32_t j : order_) {
    bucket_.push_back(static_cast<int32_t>((most - score(j)) * per_score));
    weights[static_cast<size_t>(bucket_.back())] += weight_of(static_cast<size_t>(j));
  }
  int32_t whole = 0;  // buckets before it are kept
  double sum = 0;
  for (bool full = false; whole < kBuckets && !full; ++whole) {
    if (sum + weights[static_cast<size_t>(whole)] <= limit) {
      sum += weights[static_cast<size_t>(whole)];
      continue;
    }
    tied_.clear();  // places in the list
    for (size_t i = 0; i < order_.size(); ++i) {
      if (bucket_[i] == whole) tied_.push_back(static_cast<int32_t>(i));
    }
    std::ranges::sort(tied_, [&](int32_t a, int32_t b) {
      const float x = score(order_[static_cast<size_t>(a)]), y = score(order_[static_cast<size_t>(b)]);
      return x > y || (x == y && a < b);
    });
    for (const int32_t i : tied_) {
      const double weight = weight_of(static_cast<size_t>(order_[static_cast<size_t>(i)]));
      full = sum + weight > limit;
      if (full && !and_next) break;
      bucket_[static_cast<size_t>(i)] = kChosen;
      if (full) break;
      sum += weight;
    }
    if (full) break;
  }
  size_t kept = 0;
  for (size_t i = 0; i < order_.size(); ++i) {
    if (bucket_[i] < whole) order_[kept++] = order_[i];
  }
  order_.resize(kept);
  return order_;
}

std::span<const int32_t> ClusterChooser::Share(std::span<const float> scores, std::span<const int32_t> counts,
                                               int64_t budget) {
  const auto weight = [&](size_t j) { return static_cast<double>(counts[j]); };
  return Best(scores, counts, static_cast<double>(budget), weight, /*and_next=*/false);
}

std::span<const int32_t> ClusterChooser::Mass(std::span<const float> scores, std::span<const int32_t> counts,
                                              double mass) {
  // The longest prefix below the mass, and the cluster that reaches it.
  const auto weight = [&](size_t j) { return counts[j] * std::exp(static_cast<double>(scores[j])); };
  return Best(scores, counts, std::nextafter(mass, 0.0), weight, /*and_next=*/true);
}

std::span<const int32_t> ClusterChooser::Above(std::span<const float> scores, std::span<const int32_t> counts,
                                               float threshold) {
  List(counts);
  std::erase_if(order_, [&](int32_t j) { return !(scores[static_cast<size_t>(j)] > threshold); });
  return order_;
}

}  // namespace hawser
