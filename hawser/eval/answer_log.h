// eval/answer_log.h - the answers of an evaluation as they are finished, in a file of its folder, so that a run that
// was killed asks nothing twice.
//   answers.jsonl: a line of JSON that says which run it is, then a line for each group of answers
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hawser/base/file.h"
#include "hawser/base/lock.h"
#include "hawser/eval/lm.h"

namespace hawser {

class AnswerLog {
 public:
  /// Opens the log of `folder` for a run that `run` describes, which asks `requests`; holds the folder's lock from here
  /// on. Errors: kUsage where the folder holds another run, or the same one and `resume` is not set; kFormat for a log
  /// that is damaged elsewhere than at its end.
  AnswerLog(const std::filesystem::path& folder, const nlohmann::json& run, std::span<const LmRequest> requests,
            bool resume);
  ~AnswerLog();

  int64_t started() const { return started_; }  // seconds since 1970, of the first start
  /// [requests]; nothing where it is not known yet.
  const std::vector<std::optional<LmAnswer>>& answers() const { return answers_; }
  size_t known() const { return known_; }
  void Add(std::span<const NumberedAnswer> answers);

 private:
  FolderLock lock_;
  std::filesystem::path path_;
  int64_t started_ = 0;
  size_t known_ = 0;
  std::vector<std::optional<LmAnswer>> answers_;
  std::unique_ptr<AppendFile> file_;
};

}  // namespace hawser
