// hawser report RESULTS...: evaluations and runs side by side, as one page.
#include <memory>
#include <string>
#include <vector>

#include "hawser/base/folder.h"
#include "hawser/base/progress.h"
#include "hawser/base/size.h"
#include "hawser/cli/command.h"
#include "hawser/eval/task_report.h"

namespace hawser {
namespace {

struct ReportOptions {
  std::vector<std::filesystem::path> results;
  std::filesystem::path out;
  std::string title = "Evaluation";
};

int RunReport(const ReportOptions& options, const CommonOptions& common) {
  const TaskReport report = ReportOfPaths(options.title, options.results);
  WriteTaskReport(options.out, report);
  if (common.json) {
    nlohmann::json pictures = nlohmann::json::array();
    for (const ReportPicture& picture : report.pictures) {
      for (const char* ending : {"svg", "csv"}) {
        const std::string name = fmt::format("{}-{}.{}", options.out.stem().string(), picture.name, ending);
        pictures.push_back((ParentFolder(options.out) / name).string());
      }
    }
    PrintJson({{"out", options.out.string()}, {"pictures", pictures}});
  } else {
    LogLine(fmt::format("{}: {}", options.out.string(),
                        report.pictures.empty()
                            ? "tables alone: nothing here has a picture"
                            : fmt::format("{}, also as .svg and .csv beside it",
                                          Counted(static_cast<int64_t>(report.pictures.size()), "picture"))));
  }
  return 0;
}

}  // namespace

std::function<int()> SetupReport(Command command, CommonOptions& common) {
  auto options = std::make_shared<ReportOptions>();
  command
      .Add(
          "RESULTS", options->results,
          "results_*.json or folders of evaluations and comparisons (eval --output), what eval ppl, retrieval, longppl "
          "and compare print with --json, and folders of training runs")
      .Required();
  command.Add("--out", options->out, "Page to write, .html").Required().Writes();
  command.Add("--title", options->title, "Its title").ShowDefault();
  return [options, &common] { return RunReport(*options, common); };
}

}  // namespace hawser
