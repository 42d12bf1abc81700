// eval/task_report.h - results of evaluations as a page: needles by length and depth, RULER by length and task,
// perplexity by position, and runs side by side.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace hawser {

struct ReportRun {
  std::string name;        // where the runs do not differ in anything else
  nlohmann::json results;  // as in results_*.json (task_results.h)
};

/// What sets each run apart: model, cache, attention, positions, dtype, ..., or else its name.
std::vector<std::string> RunLabels(std::span<const ReportRun> runs);

/// A picture of a page as files beside it: "passkey_landmark-1", its SVG, its numbers.
struct ReportPicture {
  std::string name, svg, csv;
};

struct TaskReport {
  std::string html;  // a whole page
  std::vector<ReportPicture> pictures;
};

/// `extra`: further sections of HTML and their pictures, put behind the others. Errors: kFormat for results that lack
/// what results have.
TaskReport MakeTaskReport(std::string_view title, std::span<const ReportRun> runs, const TaskReport& extra = {});

/// Writes `page` and STEM-NAME.svg and .csv beside it, atomically each, the page last.
void WriteTaskReport(const std::filesystem::path& page, const TaskReport& report);

/// The report of what `paths` name: results_*.json, folders of evaluations (the newest results in them) and of
/// comparisons, what `eval ppl`, `retrieval`, `longppl` and `compare` print with --json, and training runs. Errors:
/// kIo, kFormat; kUsage for a folder without any.
TaskReport ReportOfPaths(std::string_view title, std::span<const std::filesystem::path> paths);

}  // namespace hawser
