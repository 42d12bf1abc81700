#include "hawser/kv/keep_rule.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include "hawser/base/error.h"

namespace hawser {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();
constexpr std::array<std::string_view, 3> kRuleNames = {"share", "mass", "quantile"};

struct Better {
  std::span<const float> scores;
  bool operator()(int32_t a, int32_t b) const {
    const float x = scores[static_cast<size_t>(a)], y = scores[static_cast<size_t>(b)];
    return x > y || (x == y && a < b);
  }
};

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

void LogScores(ConstMat logits, std::span<const int32_t> counts, std::span<float> scores) {
  const auto clusters = static_cast<int64_t>(counts.size());
  HAWSER_CHECK(logits.cols == clusters && scores.size() == counts.size() && logits.rows > 0);
  const auto of_row = [&](int64_t i, auto&& each) {
    const float* row = logits.Row<float>(i);
    for (int64_t j = 0; j < clusters; ++j) {
      if (counts[static_cast<size_t>(j)] > 0) each(row[j], static_cast<size_t>(j));
    }
  };
  std::ranges::fill(scores, 0.0f);
  thread_local std::vector<float> share, log_sum;  // exp(A_ij - max_i); log Z_i
  share.resize(counts.size());
  log_sum.clear();
  for (int64_t i = 0; i < logits.rows; ++i) {
    float max = kNone;
    of_row(i, [&](float a, size_t) { max = std::max(max, a); });
    double sum = 0;
    of_row(i, [&](float a, size_t j) { sum += counts[j] * static_cast<double>(share[j] = std::exp(a - max)); });
    log_sum.push_back(max + static_cast<float>(std::log(sum)));
    const auto weight = static_cast<float>(1 / (sum * static_cast<double>(logits.rows)));
    of_row(i, [&](float, size_t j) { scores[j] += share[j] * weight; });
  }
  // Where f32 has lost digits to underflow, once more around the greatest term.
  constexpr float kLeast = 1e-30f;
  for (size_t j = 0; j < scores.size(); ++j) {
    if (counts[j] == 0) {
      scores[j] = kNone;
    } else if (scores[j] >= kLeast) {
      scores[j] = std::log(scores[j]);
    } else {
      float max = kNone;
      const auto term = [&](int64_t i) { return logits.Row<float>(i)[j] - log_sum[static_cast<size_t>(i)]; };
      for (int64_t i = 0; i < logits.rows; ++i) max = std::max(max, term(i));
      double sum = 0;
      for (int64_t i = 0; i < logits.rows; ++i) sum += std::exp(static_cast<double>(term(i)) - max);
      scores[j] = max + static_cast<float>(std::log(sum / static_cast<double>(logits.rows)));
    }
    if (counts[j] == 0 || std::isfinite(scores[j])) continue;
    Fail(ErrorKind::kNumeric, "a cluster of a prefix has the score {}; the prefix or the weights may be damaged",
         scores[j]);
  }
}

void ClusterChooser::List(std::span<const int32_t> counts) {
  order_.clear();
  for (size_t j = 0; j < counts.size(); ++j) {
    if (counts[j] > 0) order_.push_back(static_cast<int32_t>(j));
  }
}

/// Orders the first of the list by score until the longest prefix with a weight of `limit` at most is known; its size.
template <class WeightOf>
size_t ClusterChooser::Longest(std::span<const float> scores, double limit, const WeightOf& weight_of) {
  const Better better{scores};
  size_t low = 0, high = order_.size();
  double sum = 0;
  while (low < high) {  // the first `low` fit; more than `high` do not
    const size_t middle = low + (high - low + 1) / 2;
    const auto begin = order_.begin();
    std::nth_element(begin + static_cast<ptrdiff_t>(low), begin + static_cast<ptrdiff_t>(middle) - 1,
                     begin + static_cast<ptrdiff_t>(high), better);
    double more = 0;
    for (size_t i = low; i < middle; ++i) more += weight_of(static_cast<size_t>(order_[i]));
    if (sum + more <= limit) {
      sum += more;
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

std::span<const int32_t> ClusterChooser::First(size_t count) {
  order_.resize(count);
  std::ranges::sort(order_);
  return order_;
}

std::span<const int32_t> ClusterChooser::Share(std::span<const float> scores, std::span<const int32_t> counts,
                                               int64_t budget) {
  List(counts);
  return First(Longest(scores, static_cast<double>(budget), [&](size_t j) { return static_cast<double>(counts[j]); }));
}

std::span<const int32_t> ClusterChooser::Mass(std::span<const float> scores, std::span<const int32_t> counts,
                                              double mass) {
  List(counts);
  const auto weight = [&](size_t j) { return counts[j] * std::exp(static_cast<double>(scores[j])); };
  // The longest prefix below the mass, and the cluster that reaches it: which Longest leaves to be found.
  const size_t below = Longest(scores, std::nextafter(mass, 0.0), weight);
  if (below < order_.size()) {
    const auto rest = order_.begin() + static_cast<ptrdiff_t>(below);
    std::iter_swap(rest, std::min_element(rest, order_.end(), Better{scores}));
  }
  return First(std::min(below + 1, order_.size()));
}

std::span<const int32_t> ClusterChooser::Above(std::span<const float> scores, std::span<const int32_t> counts,
                                               float threshold) {
  List(counts);
  std::erase_if(order_, [&](int32_t j) { return !(scores[static_cast<size_t>(j)] > threshold); });
  return order_;
}

}  // namespace hawser
