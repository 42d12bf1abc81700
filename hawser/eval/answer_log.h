// eval/answer_log.h - the answers of an evaluation as they are finished, in a file of its folder, so that a run that
// was killed asks nothing twice.
//   answers.jsonl: a line of JSON that says which run it is, then a line for each group of answers
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hawser/eval/lm.h"
#include "hawser/eval/row_log.h"

namespace hawser {

class AnswerLog {
 public:
  /// Opens the log of `folder` for a run that `run` describes, which asks `requests`; holds the folder's lock from here
  /// on. Errors: kUsage where the folder holds another run, or the same one and `resume` is not set; kFormat for a log
  /// that is damaged elsewhere than at its end.
  AnswerLog(const std::filesystem::path& folder, const nlohmann::json& run, std::span<const LmRequest> requests,
            bool resume);
  ~AnswerLog();

  int64_t started() const { return log_.started(); }  // seconds since 1970, of the first start
  /// [requests]; nothing where it is not known yet.
  const std::vector<std::optional<LmAnswer>>& answers() const { return answers_; }
  size_t known() const { return known_; }
  void Add(std::span<const NumberedAnswer> answers);

 private:
  RowLog log_;
  size_t known_ = 0;
  std::vector<std::optional<LmAnswer>> answers_;
};

}  // namespace hawser
