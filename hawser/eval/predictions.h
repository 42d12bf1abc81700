// eval/predictions.h - answers of any program in files, as the public benchmarks write them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "hawser/eval/answer_check.h"

namespace hawser {

/// One line of a file of predictions.
struct Prediction {
  std::string id;  // "_id", "index" or "id" of the line; else its number from 0
  std::string text;
  std::vector<std::string> references;
  std::vector<std::string> classes;  // LongBench: "all_classes"
  int64_t length = -1;               // of the prompt; -1: the line does not say
  std::string difficulty, size;      // LongBench v2: easy or hard; short, medium or long
  std::string layout;                // of this program's samples: "variant" of passkey, "form" of niah
  std::string filter;                // of a sample log: by which rule `told`
  double told = std::numeric_limits<double>::quiet_NaN();  // "exact_match", "score" or "acc" of the line
};

/// Lines of JSON, or one list: `text` is "pred", "prediction" or "response", or the answer in a sample log of an
/// evaluation ("resps"); references are "outputs", "answers", "needle", "answer", "label" or "ground_truth" of the
/// line, or of its "doc". Blank lines are skipped, and so are lines of a log that tell the same answers by another
/// filter than the first line's. `check` sees the others. Errors: kIo, kFormat with the number of the line.
std::vector<Prediction> ReadPredictions(const std::filesystem::path& path, AnswerCheck* check);

/// Whether a line of a sample log tells the same answers by another filter than the first line's, which `first` holds.
bool IsOtherFilter(const nlohmann::json& line, nlohmann::json* first);

}  // namespace hawser
