#include "hawser/kv/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "hawser/kv/squeezed.h"

namespace hawser {
namespace {

double Density(const KvCache& cache) {
  const int64_t seen = cache.seen() - cache.prefix_tokens();
  return seen > 0 ? static_cast<double>(cache.separators_seen()) / static_cast<double>(seen) : 0;
}

double Formula(const KvCache& cache, int32_t layer) {
  return cache.policy(layer).FormulaMean(cache.seen() - cache.prefix_tokens(), Density(cache));
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

nlohmann::json PrefixJson(const SqueezedReader& reader) {
  const PrefixIndex& index = reader.index();
  const auto key_bytes = static_cast<double>(index.bytes()) / static_cast<double>(index.tokens()) /
                         static_cast<double>(index.layers.size()) / index.kv_heads;  // and value
  nlohmann::json json = {{"tokens", reader.tokens()}, {"keep", ToString(reader.rule())}};
  for (const bool prompt : {true, false}) {
    const SqueezedReader::Usage& usage = reader.usage(prompt);
    json[prompt ? "prompt" : "decode"] = {
        {"queries", usage.queries},
        {"keys", usage.keys_per_query()},
        {"centroids", usage.centroids_per_query()},
        {"share", usage.keys_per_query() / static_cast<double>(reader.tokens())},
        {"bytes", usage.keys_per_query() * key_bytes +
                      usage.centroids_per_query() * index.head_dim * static_cast<double>(sizeof(float))}};
  }
  return json;
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
  if (cache.prefix() != nullptr) json["prefix"] = PrefixJson(*cache.prefix());
  return json;
}

std::string PrefixReportText(const KvCache& cache) {
  const SqueezedReader& reader = *cache.prefix();
  std::string text = fmt::format("prefix of {} tokens, keep {}:", reader.tokens(), ToString(reader.rule()));
  std::string_view sign = " ";
  for (const bool prompt : {true, false}) {
    const SqueezedReader::Usage& usage = reader.usage(prompt);
    if (usage.queries == 0) continue;
    const auto tokens = static_cast<double>(reader.tokens());
    text += fmt::format("{}{} read {:.1f} % of its keys and {:.1f} % in centroids", std::exchange(sign, ", "),
                        prompt ? "prompts" : "tokens", 100 * usage.keys_per_query() / tokens,
                        100 * usage.centroids_per_query() / tokens);
  }
  return text;
}

std::string KvReportText(const KvCache& cache) {
  const KvUsage all = cache.usage();
  std::string text =
      fmt::format("kv {}: {}{}; {} bytes", ToString(cache.form()), cache.form().layered() ? "means over layers: " : "",
                  UsageText(all, MeanFormula(cache), cache.seen()), cache.bytes());
  if (cache.prefix() != nullptr) text += "\n" + PrefixReportText(cache);
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
