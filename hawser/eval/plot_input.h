// eval/plot_input.h - plots from files as this program and scripts write them.
#pragma once

#include <filesystem>
#include <functional>
#include <span>
#include <string>

#include "hawser/base/file.h"
#include "hawser/eval/plot.h"

namespace hawser {

/// The members of the plot form, for people.
extern const char* const kPlotForm;

/// A plot of one file in the plot form (a JSON object with "series"), or of results as they were written, any number of
/// them in one or several files: metrics.jsonl of training runs (or the folders of runs), and what `eval ppl --json`
/// and `eval retrieval --json` print, an object a file or a line. Results in one plot are of one kind. `y`, where it is
/// not empty, names the member to draw instead of the usual one: any number of a line of metrics ("lr"), of a bucket or
/// of a stretch of a stream ("kv_bytes"). Errors: kIo; kFormat naming file and member; kUsage for results of several
/// kinds, and for a `y` that no result has, naming those there are. `read` gives the contents of a file.
using ReadsFile = std::function<std::string(const std::filesystem::path&)>;
LinePlot PlotOfFiles(std::span<const std::filesystem::path> files, const std::string& y,
                     const ReadsFile& read = ReadFile);

}  // namespace hawser
