// kv/report.h - how much a cache held: measured, and by the formula.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "hawser/kv/cache.h"

namespace hawser {

/// `policy`, `seen`, `separator_density` (of the tokens seen); means over layers in slots: `mean` (of the stored size
/// after each token), `formula_mean` (KvPolicy::FormulaMean; null where there is none), `peak_mean`, `final_mean`,
/// `ratio` (sum of stored over sum of seen), `final_ratio` (stored now over seen: the figure of the masked reference at
/// batch 1); `peak` and `final` of the layer that holds most; `bytes` held in memory now, `mean_bytes` and `peak_bytes`
/// of keys and values stored; and `layers`, the same figures of each. Behind a squeezed prefix also `prefix`: `tokens`,
/// `keep`, and of prompts and single tokens `queries` (tokens times layers times kv heads) with the `keys` and
/// `centroids` that each read in the mean, and the `share` of the prefix and the `bytes` that these are.
nlohmann::json KvReportJson(const KvCache& cache);
/// Of a cache behind a squeezed prefix: the share of its keys that was read, on one line.
std::string PrefixReportText(const KvCache& cache);
/// One line for people of means over layers; where layers differ also one of the layer that holds most, and one for
/// each policy.
std::string KvReportText(const KvCache& cache);

}  // namespace hawser
