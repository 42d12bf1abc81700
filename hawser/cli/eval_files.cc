#include "hawser/cli/eval_files.h"

#include <fmt/ranges.h>

#include <cmath>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "hawser/eval/file_scores.h"
#include "hawser/eval/report.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

int RunScore(const std::string& task, const std::vector<fs::path>& files, const CommonOptions& common) {
  nlohmann::json rows = nlohmann::json::array();
  TextTable table({"file", "part", "score", "error", "samples"});
  for (const fs::path& file : files) {
    const std::vector<FileScore> scores = ScoreFile(task, file);
    for (const FileScore& score : scores) {
      rows.push_back({{"file", file.string()},
                      {"part", score.part},
                      {"score", score.score},
                      {"stderr", score.error},
                      {"samples", score.samples}});
      table.Row({file.string(), score.part, fmt::format("{:.{}f}", score.score, score.percent ? 2 : 4),
                 std::isnan(score.error) ? "" : fmt::format("{:.2f}", score.error), HumanCount(score.samples)});
    }
  }
  if (common.json) {
    PrintJson({{"task", task}, {"scores", rows}});
  } else {
    PrintText(table.ToString());
  }
  return 0;
}

std::function<int()> SetupScore(Command command, CommonOptions& common) {
  struct Options {
    std::string task;
    std::vector<fs::path> files;
  };
  const auto options = std::make_shared<Options>();
  command
      .Add("--task", options->task,
           fmt::format("Whose rules score: a task of RULER, a data set of LongBench (hotpotqa, gov_report_e, ...), {}",
                       fmt::join(OtherScorers(), ", ")))
      .Required();
  command
      .Add("--pred", options->files,
           "Predictions, a JSON object a line with \"pred\" and \"answers\" or \"outputs\", or samples_*.jsonl of eval "
           "or "
           "of lm-evaluation-harness")
      .Required();
  return [options, &common] { return RunScore(options->task, options->files, common); };
}

}  // namespace

std::function<std::optional<int>()> SetupEvalFiles(Command eval, CommonOptions& common) {
  const Command ruler = eval.AddFirstCommand("ruler", "RULER from file to file: its data, answers to them, scores");
  const Command score = eval.AddFirstCommand("score", "Score predictions in files by the rules of a task");
  for (const Command part : {ruler, score}) {
    AddCommonOptions(part, common);
    AddForceOption(part, common);
  }
  return [ruler, score, run_ruler = SetupEvalRuler(ruler, common),
          run_score = SetupScore(score, common)]() -> std::optional<int> {
    if (ruler.parsed()) return run_ruler();
    if (score.parsed()) return run_score();
    return std::nullopt;
  };
}

}  // namespace hawser
