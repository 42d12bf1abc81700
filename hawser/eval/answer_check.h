// eval/answer_check.h - what tells that a file of answers is not what it is scored as.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>
#include <unordered_set>

namespace hawser {

/// Errors: kUsage where the file has the name of another task's sample log, samples_TASK_DATE.jsonl.
void CheckLogName(std::string_view task, const std::filesystem::path& path);

/// Of all lines that are scored together.
class AnswerCheck {
 public:
  /// `task`: whose rules score.
  explicit AnswerCheck(std::string_view task) : task_(task) {}

  /// Errors: kFormat for a line whose "doc" is one of another task, and for a line whose id ("doc_id", "_id", "index"
  /// or "id") and document came before: what counts twice would narrow the error bar.
  void See(const nlohmann::json& line);

  /// A line that says `told` of its score beside what its answers have, each score once; NaN: it says nothing.
  struct Beside {
    double told, found;
  };
  void Compare(std::span<const Beside> scores);
  /// Of a line of likelihoods: whether its "filtered_resps" are its "resps", which count.
  void SeeFiltered(const nlohmann::json& line);
  /// A sentence of those that differ; empty: none does.
  std::string Contradictions() const;

 private:
  std::string task_;
  std::unordered_set<uint64_t> seen_;
  int64_t told_ = 0, differ_ = 0, filtered_ = 0;
};

}  // namespace hawser
