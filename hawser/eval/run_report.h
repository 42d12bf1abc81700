// eval/run_report.h - report.html of a training run: one page that needs nothing else.
#pragma once

#include <nlohmann/json.hpp>

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace hawser {

/// Curves of loss, learning rate, gradient norm, tokens/s and density from the lines of a metrics.jsonl, and the
/// recipe. Long runs are drawn as means over stretches of steps, at most 600 a curve, in a band from the
/// least to the greatest; what is missing or not a finite
/// number is left out.
std::string RunReportPage(std::string_view title, std::string_view recipe, const std::vector<nlohmann::json>& metrics);

/// Writes report.html of a run folder from its recipe.toml and metrics.jsonl. Errors: kIo.
void WriteRunReport(const std::filesystem::path& run);

}  // namespace hawser
