// eval/task_results.h - scored samples as the results and sample logs of lm-evaluation-harness, and as a table.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "hawser/eval/task.h"

namespace hawser {

/// One task of a run: its samples, and of each the answers to its requests and its score.
struct ScoredTask {
  const Task* task = nullptr;
  TaskOptions options;
  std::vector<Sample> samples;
  std::vector<std::vector<LmAnswer>> answers;
  std::vector<SampleScore> scores;
};

/// "results", "groups", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples", "cells".
nlohmann::json ResultsOf(std::span<const ScoredTask> tasks, int64_t bootstrap);

/// A request as logs show it (Lm::Shown).
using ShownRequest = std::function<std::string(const LmRequest& request)>;
/// The lines of samples_ROW_*.jsonl by row: one for each document and filter.
std::map<std::string, std::string> SampleLogs(const ScoredTask& task, const ShownRequest& shown);
/// SHA-256 of the hashes of all samples of a row, by row.
std::map<std::string, std::string> TaskHashes(const ScoredTask& task, const ShownRequest& shown);

/// For people.
std::string ResultsTable(const nlohmann::json& results);

}  // namespace hawser
