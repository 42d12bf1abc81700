#include "hawser/serve/meters.h"

#include <fmt/format.h>

namespace hawser {

void Histogram::Add(double seconds) {
  const std::lock_guard lock(mutex_);
  for (size_t i = 0; i < kBounds.size(); ++i) counts_[i] += seconds <= kBounds[i];
  ++count_;
  sum_ += seconds;
}

std::string Histogram::Text(std::string_view name, std::string_view help) const {
  const std::lock_guard lock(mutex_);
  std::string text = fmt::format("# HELP {0} {1}\n# TYPE {0} histogram\n", name, help);
  for (size_t i = 0; i < kBounds.size(); ++i) {
    text += fmt::format("{}_bucket{{le=\"{}\"}} {}\n", name, kBounds[i], counts_[i]);
  }
  return text + fmt::format("{0}_bucket{{le=\"+Inf\"}} {1}\n{0}_sum {2}\n{0}_count {1}\n", name, count_, sum_);
}

void Meters::Count(int status) {
  const std::lock_guard lock(mutex_);
  ++counts_[status];
}

std::string Meters::Text(const SchedulerStats& stats, const SchedulerOptions& options, size_t connections) const {
  std::string text;
  const auto add = [&](std::string_view name, std::string_view kind, std::string_view help, auto value) {
    text += fmt::format("# HELP hawser_{0} {1}\n# TYPE hawser_{0} {2}\nhawser_{0} {3}\n", name, help, kind, value);
  };
  add("prompt_tokens_total", "counter", "Tokens of prompts that were read.", stats.prompt_tokens);
  add("cached_tokens_total", "counter", "Tokens of prompts that were known already.", stats.cached_tokens);
  add("generated_tokens_total", "counter", "Tokens made.", stats.new_tokens);
  add("requests_running", "gauge", "Texts under way.", stats.running);
  add("requests_waiting", "gauge", "Texts that wait.", stats.waiting);
  text += "# HELP hawser_requests_total Answers by status.\n# TYPE hawser_requests_total counter\n";
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [status, count] : counts_)
      text += fmt::format("hawser_requests_total{{code=\"{}\"}} {}\n", status, count);
  }
  add("prompt_tokens_per_second", "gauge", "Of the last text that ended.", prompt_rate.load());
  add("generated_tokens_per_second", "gauge", "Of the last text that ended.", decode_rate.load());
  const double limit = static_cast<double>(options.kv_bytes);
  add("kv_cache_usage_ratio", "gauge", "Keys and values of texts under way, of what is allowed.",
      limit > 0 ? static_cast<double>(stats.kv_bytes) / limit : 0.0);
  text += "# HELP hawser_kv_cache_bytes Keys and values of texts under way.\n# TYPE hawser_kv_cache_bytes gauge\n";
  std::map<std::string, int64_t> bytes = stats.kv_bytes_of;
  bytes.try_emplace(ToString(options.kv), 0);
  for (const auto& [policy, n] : bytes) text += fmt::format("hawser_kv_cache_bytes{{policy=\"{}\"}} {}\n", policy, n);
  add("kv_evicted_tokens_total", "counter", "Tokens that caches have forgotten.", stats.evicted_tokens);
  add("prefix_cache_bytes", "gauge", "Keys and values kept for prompts to come.", stats.prefix_bytes);
  add("prefix_cache_queries_total", "counter", "Prompts that were looked up.", stats.prefix_queries);
  add("prefix_cache_hits_total", "counter", "Prompts whose beginning was known.", stats.prefix_hits);
  add("indexed_prefix_texts_total", "counter", "Texts that began behind the indexed prefix.", stats.indexed);
  add("connections", "gauge", "Open connections.", connections);
  text += first_token.Text("hawser_time_to_first_token_seconds", "From the request to the first token of its answer.");
  text += between_tokens.Text("hawser_inter_token_seconds", "Between tokens of an answer.");
  return text;
}

}  // namespace hawser
