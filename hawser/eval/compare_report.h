// eval/compare_report.h - a comparison of methods as JSON, as a table, and as a page with pictures.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "hawser/eval/compare.h"
#include "hawser/eval/task_report.h"

namespace hawser {

/// "task": "compare".
nlohmann::json ToJson(const Comparison& comparison);
/// Errors: kFormat naming the member.
Comparison ParseComparison(const nlohmann::json& json);

std::string ToText(const Comparison& comparison);

/// Sections of HTML for a page, and their pictures: tables, perplexity by keys kept and by position. `prefix` stands
/// before the names of pictures.
TaskReport CompareSections(const Comparison& comparison, const std::string& prefix);

}  // namespace hawser
