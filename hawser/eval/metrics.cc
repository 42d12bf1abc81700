#include "hawser/eval/metrics.h"

#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include "hawser/base/rng.h"

namespace hawser {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

/// `at(i)`: the i-th of n values.
template <class At>
double MeanOf(Mean mean, int64_t n, At&& at) {
  double values = 0, weights = 0;
  for (int64_t i = 0; i < n; ++i) {
    const MetricValue& v = at(i);
    values += mean == Mean::kMean ? v.value * v.weight : v.value;
    weights += mean == Mean::kPerplexity ? 1 : v.weight;
  }
  if (n == 0 || weights == 0) return kNone;
  switch (mean) {
    case Mean::kMean:
      return values / weights;
    case Mean::kPerplexity:
    case Mean::kPerUnit:
      return std::exp(-values / weights);
    case Mean::kBitsPerUnit:
      return -values / (weights * std::numbers::ln2);
  }
  return kNone;
}

/// Of the weighted mean; the usual standard error where all weights are 1.
double ErrorOfMean(std::span<const MetricValue> values, double mean) {
  const auto n = static_cast<double>(values.size());
  if (values.size() < 2) return kNone;
  double squares = 0, weights = 0;
  for (const MetricValue& v : values) {
    squares += v.weight * v.weight * (v.value - mean) * (v.value - mean);
    weights += v.weight;
  }
  return std::sqrt(squares * n / (n - 1)) / weights;
}

}  // namespace

MetricSummary Summarize(const Metric& metric, std::span<const MetricValue> values, int64_t draws) {
  std::vector<MetricValue> counted;
  for (const MetricValue& v : values) {
    if (!std::isnan(v.value)) counted.push_back(v);
  }
  const auto n = static_cast<int64_t>(counted.size());
  MetricSummary summary{.error = kNone, .samples = n};
  summary.value = MeanOf(metric.mean, n, [&](int64_t i) -> const MetricValue& { return counted[i]; });
  if (metric.mean == Mean::kMean) {
    summary.error = ErrorOfMean(counted, summary.value);
  } else if (draws > 1 && n > 1) {
    Rng rng{.seed = 1234};
    double sum = 0, squares = 0;
    for (int64_t draw = 0; draw < draws; ++draw) {
      const double value = MeanOf(
          metric.mean, n, [&](int64_t) -> const MetricValue& { return counted[rng.Below(static_cast<uint64_t>(n))]; });
      sum += value - summary.value;
      squares += (value - summary.value) * (value - summary.value);
    }
    const auto d = static_cast<double>(draws);
    summary.error = std::sqrt((squares - sum * sum / d) / (d - 1));
  }
  return summary;
}

MetricSummary Pool(std::span<const MetricSummary> rows) {
  double values = 0, squares = 0;
  int64_t n = 0;
  int64_t counted = 0;
  for (const MetricSummary& row : rows) {
    if (row.samples == 0) continue;
    const auto samples = static_cast<double>(row.samples);
    values += samples * row.value;
    squares += (samples - 1) * samples * (row.samples > 1 ? row.error * row.error : 0);
    n += row.samples;
    ++counted;
  }
  if (n == 0) return {.value = kNone, .error = kNone};
  const auto all = static_cast<double>(n);
  const double rest = all - static_cast<double>(counted);
  return {.value = values / all, .error = rest > 0 ? std::sqrt(squares / rest / all) : kNone, .samples = n};
}

MetricSummary MeanOfRows(std::span<const MetricSummary> rows) {
  double values = 0, squares = 0, counted = 0;
  int64_t samples = 0;
  for (const MetricSummary& row : rows) {
    if (row.samples == 0) continue;
    values += row.value;
    squares += row.error * row.error;
    samples += row.samples;
    ++counted;
  }
  if (samples == 0) return {.value = kNone, .error = kNone};
  return {.value = values / counted, .error = std::sqrt(squares) / counted, .samples = samples};
}

}  // namespace hawser
