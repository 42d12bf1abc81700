// eval/ruler_score.h - RULER's scores, of one answer and of folders of predictions.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/eval/predictions.h"
#include "hawser/eval/ruler.h"

namespace hawser {

/// From 0 to 1: the share of the references that the answer holds, or 1 for any of them (RulerTask::any), in lower
/// case.
double ScoreRuler(const RulerTask& task, std::string_view answer, const std::vector<std::string>& references);

struct RulerTaskScore {
  const RulerTask* task = nullptr;
  std::string model;               // of the file's name; empty: it names none
  double score = 0;                // percent, two decimals
  int64_t samples = 0, empty = 0;  // answers
  std::vector<Prediction> predictions;
};

/// Of TASK.jsonl, the pieces TASK-N.jsonl in the order of N, and TASK.MODEL.jsonl; by model, in the order of tasks.
/// Errors: kIo, kFormat; kUsage for a folder without any.
std::vector<RulerTaskScore> ScoreRulerFolder(const std::filesystem::path& folder);

/// summary.csv and submission.csv of one model, as the original lays them out.
std::string RulerSummaryCsv(const std::vector<RulerTaskScore>& scores);
std::string RulerSubmissionCsv(const std::vector<RulerTaskScore>& scores);

}  // namespace hawser
