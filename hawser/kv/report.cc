#include "hawser/kv/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>

namespace hawser {
namespace {

double Density(const KvCache& cache) {
  return cache.seen() > 0 ? static_cast<double>(cache.separators_seen()) / static_cast<double>(cache.seen()) : 0;
}

double Formula(const KvCache& cache, int32_t layer) {
  return cache.policy(layer).FormulaMean(cache.seen(), Density(cache));
}

nlohmann::json OrNull(double value) { return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json(); }

nlohmann::json UsageJson(const KvUsage& usage, double formula) {
  return {{"mean", usage.mean},
          {"formula_mean", OrNull(formula)},
          {"peak", usage.peak},
          {"ratio", usage.ratio},
          {"peak_mean", usage.peak_mean},
          {"final", usage.final},
          {"final_mean", usage.final_mean},
          {"final_ratio", usage.final_ratio}};
}

/// A mean over layers; as a whole number where it is one.
std::string Slots(double mean) {
  return mean == std::floor(mean) ? fmt::format("{:.0f}", mean) : fmt::format("{:.1f}", mean);
}

std::string UsageText(const KvUsage& usage, double formula, int64_t seen) {
  return fmt::format("mean {:.1f}{}, peak {}, at the end {} of {} slots ({:.1f} %), over all steps {:.1f} %",
                     usage.mean, std::isfinite(formula) ? fmt::format(" (formula {:.1f})", formula) : "",
                     Slots(usage.peak_mean), Slots(usage.final_mean), seen, 100 * usage.final_ratio, 100 * usage.ratio);
}

double MeanFormula(const KvCache& cache) {
  double sum = 0;
  for (int32_t layer = 0; layer < cache.layers(); ++layer) sum += Formula(cache, layer);
  return sum / cache.layers();
}

}  // namespace

nlohmann::json KvReportJson(const KvCache& cache) {
  nlohmann::json json = UsageJson(cache.usage(), MeanFormula(cache));
  json["policy"] = ToString(cache.form());
  json["seen"] = cache.seen();
  json["separator_density"] = Density(cache);
  json["bytes"] = cache.bytes();
  double mean = 0;
  int64_t peak = 0;
  json["layers"] = nlohmann::json::array();
  for (int32_t layer = 0; layer < cache.layers(); ++layer) {
    const KvUsage usage = cache.usage(layer);
    mean += usage.mean;
    peak += usage.peak;
    nlohmann::json row = UsageJson(usage, Formula(cache, layer));
    row["policy"] = cache.policy(layer).Name();
    json["layers"].push_back(std::move(row));
  }
  json["mean_bytes"] = mean * static_cast<double>(cache.row_bytes());
  json["peak_bytes"] = peak * cache.row_bytes();
  return json;
}

std::string KvReportText(const KvCache& cache) {
  const KvUsage all = cache.usage();
  std::string text =
      fmt::format("kv {}: {}{}; {} bytes", ToString(cache.form()), cache.form().layered() ? "means over layers: " : "",
                  UsageText(all, MeanFormula(cache), cache.seen()), cache.bytes());
  if (!cache.form().layered()) return text;
  text += fmt::format("\n  the layer that holds most: peak {}, at the end {}", all.peak, all.final);
  for (int32_t layer = 0; layer < cache.layers(); ++layer) {
    const std::string name = cache.policy(layer).Name();
    std::string with;
    int32_t first = layer;
    for (int32_t l = 0; l < cache.layers(); ++l) {
      if (cache.policy(l).Name() != name) continue;
      first = std::min(first, l);
      with += fmt::format("{}{}", with.empty() ? "" : ",", l);
    }
    if (first < layer) continue;
    text += fmt::format("\n  layers {}: {}: {}", with, name,
                        UsageText(cache.usage(layer), Formula(cache, layer), cache.seen()));
  }
  return text;
}

}  // namespace hawser
