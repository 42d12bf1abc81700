// train/metrics.h - metrics.jsonl of a run folder: one JSON object a line, a step each.
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <filesystem>
#include <map>
#include <vector>

#include "hawser/base/file.h"

namespace hawser {

/// The leading lines of a metrics.jsonl that are whole; none where there is no such file. Each is an object with an
/// integer "step". Errors: kIo.
std::vector<nlohmann::json> ReadMetrics(const std::filesystem::path& path);

/// The validation loss of each step that has one. Errors: kIo.
std::map<int64_t, double> ReadValidationLosses(const std::filesystem::path& path);

class MetricsLog {
 public:
  /// Opens for appending after dropping every line of a step after `step`, and a last line that was cut off.
  MetricsLog(const std::filesystem::path& path, int64_t step);
  /// One write of a whole line; `line` has a key "step". Errors: kIo.
  void Append(const nlohmann::json& line);

 private:
  AppendFile file_;
};

}  // namespace hawser
