// Where the results of a report come from, what tells them apart, and where its files go.
#include <fmt/format.h>

#include <map>
#include <set>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/folder.h"
#include "hawser/base/text.h"
#include "hawser/eval/compare_report.h"
#include "hawser/eval/longppl_report.h"
#include "hawser/eval/page.h"
#include "hawser/eval/plot.h"
#include "hawser/eval/plot_input.h"
#include "hawser/eval/report.h"
#include "hawser/eval/task_report.h"
#include "hawser/io/json.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::string TextOf(const json& object, const char* key) {
  const auto member = object.is_object() ? object.find(key) : object.end();
  if (!object.is_object() || member == object.end()) return "";
  return member->is_string() ? member->get<std::string>() : member->dump();
}

/// The newest results_*.json in a folder or in the folders in it; empty: none.
fs::path NewestResults(const fs::path& folder) {
  fs::path newest;
  const auto look = [&](const fs::path& in) {
    for (const fs::path& file : EntriesOf(in)) {
      const std::string name = file.filename().string();
      if (name.starts_with("results_") && name.ends_with(".json") &&
          (newest.empty() || newest.filename() < file.filename())) {
        newest = file;
      }
    }
  };
  look(folder);
  std::error_code code;
  for (const fs::path& inner : EntriesOf(folder)) {
    if (fs::is_directory(inner, code)) look(inner);
  }
  return newest;
}

/// Rows of the harness before its version 0.4, {"acc": ..., "acc_stderr": ...}, get the names that they have since,
/// "acc,none" and "acc_stderr,none".
void NameMetrics(json* results) {
  const auto rows = results->is_object() ? results->find("results") : results->end();
  if (!results->is_object() || rows == results->end() || !rows->is_object()) return;
  for (auto& [name, row] : rows->items()) {
    if (!row.is_object()) continue;
    json named = row;
    bool old = true;
    for (const auto& [key, value] : row.items()) {
      old = old && key.find(',') == key.npos;
      if (value.is_number() && key != "sample_len") named[key + ",none"] = value;
    }
    if (old) row = std::move(named);
  }
}

/// RULER of the harness has lengths for metrics, {"niah_single_1": {"4096,none": 0.9, "8192,none": -1, ...}}, where -1
/// was not run. They become the rows and cells that this program writes.
void NameLengths(json* results) {
  const auto rows = results->is_object() ? results->find("results") : results->end();
  if (!results->is_object() || rows == results->end() || !rows->is_object()) return;
  json named = json::object(), cells = json::object();
  for (const auto& [name, row] : rows->items()) {
    if (!row.is_object()) return;  // refused later, by name
    bool any = false, all = true;
    for (const auto& [key, value] : row.items()) {
      const size_t comma = key.find(',');
      if (comma == key.npos || key.find("_stderr,") != key.npos) continue;
      any = true;
      all = all && value.is_number() && ParseNumber<int64_t>(std::string_view(key).substr(0, comma)).value_or(0) > 0;
    }
    if (!any || !all) {
      named[name] = row;
      continue;
    }
    if (name == "ruler") continue;  // their mean, which is drawn of them
    for (const auto& [key, value] : row.items()) {
      const size_t comma = key.find(',');
      if (comma == key.npos || key.find("_stderr,") != key.npos || value.get<double>() < 0) continue;
      const std::string length = key.substr(0, comma), metric = "score" + key.substr(comma);
      const std::string of = fmt::format("ruler_{}_{}", length, name);
      named[of] = {{metric, value}};
      cells[of] = {{{"length", *ParseNumber<int64_t>(length)}, {metric, value}}};
    }
  }
  if (cells.empty()) return;
  *rows = std::move(named);
  (*results)["cells"] = std::move(cells);
}

/// Of a picture's name, which may hold a task's of any program: what a name of a file may hold anywhere.
std::string FileName(std::string_view name) {
  constexpr size_t kMost = 100;
  std::string safe(name.substr(0, kMost));
  for (char& c : safe) {
    const bool plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
    if (!plain && std::string_view("-_.+=").find(c) == std::string_view::npos) c = '_';
  }
  return safe;
}

}  // namespace

std::vector<std::string> RunLabels(std::span<const ReportRun> runs) {
  std::vector<std::string> labels(runs.size());
  const auto add = [&](auto&& text_of) {
    std::set<std::string> texts;
    for (const ReportRun& run : runs) texts.insert(text_of(run));
    if (texts.size() < 2) return;
    for (size_t r = 0; r < runs.size(); ++r) {
      const std::string text = text_of(runs[r]);
      if (!text.empty()) labels[r].append(labels[r].empty() ? "" : ", ").append(text);
    }
  };
  add([](const ReportRun& run) {
    const std::string path = TextOf(run.results, "model_name");
    const std::string name = fs::path(path).lexically_normal().filename().string();
    return name.empty() ? path : name;
  });
  for (const char* key : {"cache", "index", "attention", "rope", "weights_dtype", "kv_dtype", "chat", "max_length"}) {
    // A cache decides what a token sees: the attention that says the same is no difference of its own.
    if (std::string_view(key) == "attention" && std::set(labels.begin(), labels.end()).size() == runs.size()) continue;
    add([&](const ReportRun& run) {
      const bool told = run.results.is_object() && run.results.contains("engine");
      const std::string text = told ? TextOf(run.results["engine"], key) : "";
      if (std::string_view(key) == "chat") return std::string(text == "true" ? "chat" : "");
      if (text == "default") return std::string();
      return std::string_view(key) == "max_length" && !text.empty() ? text + " tokens" : text;
    });
  }
  std::set<std::string> seen;
  for (size_t r = 0; r < runs.size(); ++r) {
    if (labels[r].empty()) labels[r] = runs[r].name;
    if (!seen.insert(labels[r]).second) labels[r] += fmt::format(" ({})", runs[r].name);
  }
  return labels;
}

void WriteTaskReport(const fs::path& page, const TaskReport& report) {
  const std::string stem = page.stem().string();
  std::map<std::string, int> taken;
  for (const ReportPicture& picture : report.pictures) {
    std::string name = fmt::format("{}-{}", stem, FileName(picture.name));
    if (const int before = taken[name]++; before > 0) name += fmt::format("-{}", before + 1);
    WriteFileAtomically(ParentFolder(page) / (name + ".svg"), picture.svg);
    WriteFileAtomically(ParentFolder(page) / (name + ".csv"), picture.csv);
  }
  WriteFileAtomically(page, report.html);
}

TaskReport ReportOfPaths(std::string_view title, std::span<const fs::path> paths) {
  std::vector<ReportRun> runs;
  std::map<std::string, std::vector<fs::path>> curves;  // of other results, by kind
  std::vector<ReportRun> long_ppl, comparisons;
  std::error_code code;
  std::set<fs::path> given;
  for (const fs::path& path : paths) {
    if (!given.insert(fs::weakly_canonical(path, code)).second) {
      Fail(ErrorKind::kUsage, "{}: given twice; a run counts once", path.string());
    }
    if (fs::is_directory(path, code) && fs::exists(path / "metrics.jsonl", code)) {
      curves["training"].push_back(path);
      continue;
    }
    fs::path file = path;
    if (fs::is_directory(path, code)) {
      file = fs::exists(path / "compare.json", code) ? path / "compare.json" : NewestResults(path);
      if (file.empty()) {
        Fail(ErrorKind::kUsage,
             "{}: no results_*.json of an evaluation, no compare.json and no metrics.jsonl of a training run",
             path.string());
      }
    }
    if (file.filename() == "metrics.jsonl") {
      curves["training"].push_back(file);
      continue;
    }
    const std::string text = ReadFile(file);
    // Of an object a line the first says what all are.
    const std::string_view first =
        std::string_view(text).substr(0, file.extension() == ".jsonl" ? text.find('\n') : text.npos);
    json results = WithFrame(file.string(), [&] { return ParseJson(NonFiniteAsNull(first)); });
    const std::string task = TextOf(results, "task");
    if (task == "ppl" || task == "retrieval") {
      curves[task].push_back(file);
    } else if (task == "longppl") {
      long_ppl.push_back({file.filename().string(), std::move(results)});
    } else if (task == "compare") {
      comparisons.push_back({file.string(), std::move(results)});
    } else {
      NameMetrics(&results);
      NameLengths(&results);
      const fs::path named = fs::is_directory(path, code) ? path.lexically_normal() : file;
      runs.push_back({(named.has_filename() ? named : named.parent_path()).filename().string(), std::move(results)});
    }
  }
  TaskReport extra;
  const auto append = [&](const TaskReport& sections) {
    extra.html += sections.html;
    extra.pictures.insert(extra.pictures.end(), sections.pictures.begin(), sections.pictures.end());
  };
  for (size_t i = 0; i < comparisons.size(); ++i) {
    const std::string prefix = comparisons.size() == 1 ? "compare-" : fmt::format("compare-{}-", i + 1);
    WithFrame(comparisons[i].name, [&] { append(CompareSections(ParseComparison(comparisons[i].results), prefix)); });
  }
  if (!long_ppl.empty()) append(LongPplSections(long_ppl));
  for (const auto& [kind, files] : curves) {
    const LinePlot plot = PlotOfFiles(files, "");
    const std::string heading = kind == "ppl"         ? "Perplexity by position"
                                : kind == "retrieval" ? "Retrieval by distance"
                                                      : "Training";
    extra.html += fmt::format("<h2>{}</h2>\n{}", heading, HtmlPlots({HtmlPlot(plot)}));
    std::string csv = "series,x,y\n";
    for (const PlotSeries& series : plot.series) {
      for (size_t i = 0; i < series.x.size(); ++i) {
        csv += fmt::format("{},{},{}\n", CsvField(series.name), series.x[i], series.y[i]);
      }
    }
    extra.pictures.push_back({kind, RenderSvg(plot), csv});
  }
  return MakeTaskReport(title, runs, extra);
}

}  // namespace hawser
