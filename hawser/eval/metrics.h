// eval/metrics.h - one number and its error bar out of the values of many samples.
#pragma once

#include <cstdint>
#include <span>

#include "hawser/eval/task.h"

namespace hawser {

struct MetricSummary {
  double value = 0;     // NaN: no sample counts
  double error = 0;     // standard error; NaN: none is given ("N/A")
  int64_t samples = 0;  // that count
};

/// `draws`: resamples of a bootstrap where the mean has no error bar of its own (kPerplexity, kPerUnit, kBitsPerUnit);
/// 0: none. Deterministic.
MetricSummary Summarize(const Metric& metric, std::span<const MetricValue> values, int64_t draws = 0);

/// Several rows as one, weighted by their samples: sum n v / sum n, with the error
/// sqrt((sum (n - 1) n se^2) / (sum n - rows) / sum n).
MetricSummary Pool(std::span<const MetricSummary> rows);
/// Several rows as one, whatever their samples: sum v / rows, with the error sqrt(sum se^2) / rows.
MetricSummary MeanOfRows(std::span<const MetricSummary> rows);

}  // namespace hawser
