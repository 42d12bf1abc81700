// eval/file_scores.h - predictions in a file, scored by the rules of a task without a model.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/eval/predictions.h"

namespace hawser {

struct FileScore {
  std::string part;  // "all", or what is measured ("strict-match"), or a part of the data set: "0-4k", "hard"
  double score = 0;  // percent, two decimals; perplexities and bits as they are
  double error = 0;  // standard error of it; NaN for one sample, and where there is none
  int64_t samples = 0;
  bool percent = true;
};

/// What ScoreFile knows besides the tasks of RULER and the data sets of LongBench.
std::vector<std::string_view> OtherScorers();

/// One prediction by the (first) rules of `task`, from 0 to 1. Errors: kUsage for a task that is unknown, or that asks
/// for likelihoods.
double ScorePrediction(std::string_view task, const Prediction& prediction);

/// All lines, and by part where the task has parts: lengths of LongBench-E (names that end in _e), difficulty and
/// length of LongBench v2. One after another where a task measures several things. Tasks that ask for likelihoods want
/// sample logs of an evaluation (logged_sample.h). A note goes to the log where lines say another score of themselves.
/// Errors: kUsage, kIo, kFormat, and those of answer_check.h.
std::vector<FileScore> ScoreFile(std::string_view task, const std::filesystem::path& path);

}  // namespace hawser
