// hawser plot: results and curves that a script collected, as the pictures that reports of this program use.
#include <memory>
#include <string>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/progress.h"
#include "hawser/cli/command.h"
#include "hawser/cli/stdin.h"
#include "hawser/eval/picture_file.h"
#include "hawser/eval/plot_input.h"

namespace hawser {
namespace {

struct PlotOptions {
  std::vector<std::filesystem::path> files;
  std::filesystem::path out;
  std::string y, title;
};

int RunPlot(const PlotOptions& options, const CommonOptions& common) {
  CheckPictureName(options.out);
  LinePlot plot = PlotOfFiles(options.files, options.y, [](const std::filesystem::path& file) {
    return file == "-" ? ReadStdin("results") : ReadFile(file);
  });
  if (!options.title.empty()) plot.title = options.title;
  WritePicture(options.out, RenderSvg(plot));
  if (common.json) {
    PrintJson({{"out", options.out.string()},
               {"series", plot.series.size()},
               {"bytes", std::filesystem::file_size(options.out)}});
  } else {
    LogLine(fmt::format("{}: {} series", options.out.string(), plot.series.size()));
  }
  return 0;
}

}  // namespace

std::function<int()> SetupPlot(Command command, CommonOptions& common) {
  auto options = std::make_shared<PlotOptions>();
  command
      .Add("FILE", options->files,
           std::string("metrics.jsonl of training runs (or their folders), or results of eval --json: several are "
                       "compared. -: standard input. Or one plot: ") +
               kPlotForm)
      .Required();
  command.Add("--out", options->out, "File to write: .svg, .png or .pdf").Required().Writes();
  command.Add("--y", options->y, "Number of the results to draw, such as lr, density, tokens_per_second or kv_bytes");
  command.Add("--title", options->title, "Title instead of the usual one");
  return [options, &common] { return RunPlot(*options, common); };
}

}  // namespace hawser
