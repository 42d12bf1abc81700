#include "hawser/eval/task_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>

#include "hawser/base/error.h"
#include "hawser/eval/heat_map.h"
#include "hawser/eval/page.h"
#include "hawser/eval/plot.h"
#include "hawser/eval/report.h"
#include "hawser/eval/ruler.h"
#include "hawser/io/json.h"

namespace hawser {
namespace {

using nlohmann::json;

/// A mean over samples.
struct Value {
  double mean = 0;
  std::optional<double> error = std::nullopt;
  int64_t samples = 0;
  bool known = false;
};

/// Rows of one kind at several lengths and, where they have them, depths: passkey_landmark, niah, ruler_vt.
struct Family {
  std::string metric;
  std::map<double, std::map<double, Value>> cells;  // by length and depth
  std::map<double, Value> lengths;                  // by length
};

struct RunView {
  std::string label;
  const json* results = nullptr;
  std::map<std::string, Family> families;
};

/// The first metric of a row or cell, "acc,none"; empty where it has none.
std::string FirstMetric(const json& row) {
  for (const auto& [key, value] : row.items()) {
    if (key.find(',') != key.npos && key.find("_stderr,") == key.npos && value.is_number()) return key;
  }
  return "";
}

Value ValueOf(const json& row, const std::string& key, int64_t samples) {
  Value value{.samples = samples};
  const auto member = row.find(key);
  if (member == row.end() || !member->is_number()) return value;
  value.known = true;
  value.mean = member->get<double>();
  const size_t comma = key.find(',');
  const auto error = row.find(key.substr(0, comma) + "_stderr" + key.substr(comma));
  if (error != row.end() && error->is_number()) value.error = error->get<double>();
  return value;
}

int64_t SamplesOf(const json& row, const char* key) {
  const auto member = row.find(key);
  return member != row.end() && member->is_number_integer() ? member->get<int64_t>() : 0;
}

const json& RowsOf(const json& results) {
  const auto rows = results.is_object() ? results.find("results") : results.end();
  if (!results.is_object() || rows == results.end() || !rows->is_object()) {
    Fail(ErrorKind::kFormat, "no results of an evaluation: wanted an object \"results\", found {}", ShownJson(results));
  }
  if (rows->empty()) Fail(ErrorKind::kFormat, "no results of an evaluation: the object \"results\" is empty");
  return *rows;
}

/// Metrics of a row or cell are numbers, or null where there is none; shares lie between 0 and 1.
void CheckMetrics(const std::string& name, const json& row) {
  if (!row.is_object()) Fail(ErrorKind::kFormat, "{}: wanted an object, found {}", name, ShownJson(row));
  for (const auto& [key, value] : row.items()) {
    const size_t comma = key.find(',');
    if (comma == key.npos) continue;
    std::string metric = key.substr(0, comma);
    const bool error = metric.ends_with("_stderr");
    if (error) metric.erase(metric.size() - std::string_view("_stderr").size());
    if (value.is_null() || (error && value == "N/A")) continue;
    if (!value.is_number()) {
      Fail(ErrorKind::kFormat, "{}: \"{}\": wanted a number, found {}", name, key, ShownJson(value));
    }
    const bool of_share = metric == "acc" || metric == "acc_norm" || metric == "exact_match";
    const double number = value.get<double>();
    if (!of_share && !error) continue;
    if (number < 0 || (of_share && number > 1)) {
      Fail(ErrorKind::kFormat, "{}: \"{}\": wanted {}, found {}", name, key,
           of_share ? "a share from 0 to 1" : "0 or more", ShownJson(value));
    }
  }
}

const json& ObjectOr(const json& results, const char* key, const json& otherwise) {
  const auto member = results.find(key);
  if (member == results.end() || member->is_null()) return otherwise;
  if (!member->is_object()) Fail(ErrorKind::kFormat, "\"{}\": wanted an object, found {}", key, ShownJson(*member));
  return *member;
}

/// Errors: kFormat naming the row for what no evaluation writes, so that no damaged number is drawn.
void CheckResults(const json& results) {
  const json none = json::object();
  for (const auto& [name, row] : RowsOf(results).items()) CheckMetrics("results of " + name, row);
  for (const auto& [name, row] : ObjectOr(results, "groups", none).items()) CheckMetrics("groups, " + name, row);
  for (const auto& [name, cells] : ObjectOr(results, "cells", none).items()) {
    const std::string where = "cells of " + name;
    if (!cells.is_array()) Fail(ErrorKind::kFormat, "{}: wanted a list, found {}", where, ShownJson(cells));
    for (const json& cell : cells) {
      CheckMetrics(where, cell);
      for (const char* key : {"length", "depth"}) {
        const auto place = cell.find(key);
        if (place == cell.end() || (place->is_number() && place->get<double>() >= 0)) continue;
        Fail(ErrorKind::kFormat, "{}: \"{}\": wanted 0 or more, found {}", where, key, ShownJson(*place));
      }
    }
  }
  for (const auto& [name, figures] : ObjectOr(results, "figures", none).items()) {
    const std::string where = "figures of " + name;
    if (!figures.is_object()) Fail(ErrorKind::kFormat, "{}: wanted an object, found {}", where, ShownJson(figures));
    for (const auto& [key, value] : figures.items()) {
      if (value.is_null() || (value.is_number() && value.get<double>() >= 0 && value.get<double>() < 0x1p53)) continue;
      Fail(ErrorKind::kFormat, "{}: \"{}\": wanted a number of 0 or more, found {}", where, key, ShownJson(value));
    }
  }
}

/// Of a row, "sample_len" of it or the effective number in "n-samples"; 0: unknown.
int64_t RowSamples(const json& results, const std::string& name) {
  const int64_t own = SamplesOf(RowsOf(results)[name], "sample_len");
  const json numbers = results.value("n-samples", json());
  const json number = numbers.is_object() ? numbers.value(name, json()) : json();
  return own == 0 && number.is_object() ? SamplesOf(number, "effective") : own;
}

/// "ruler_4096_vt" at 4096 is of the family "ruler_vt".
std::string FamilyOf(std::string row, double length) {
  const std::string part = fmt::format("_{:.0f}", length);
  const size_t at = row.find(part);
  if (at != row.npos) row.erase(at, part.size());
  return row;
}

RunView ViewOf(const ReportRun& run, std::string label) {
  RunView view{.label = std::move(label), .results = &run.results, .families = {}};
  CheckResults(run.results);
  const json& rows = RowsOf(run.results);
  const json none = json::object();
  for (const auto& [row, cells] : ObjectOr(run.results, "cells", none).items()) {
    for (const json& cell : cells) {
      const auto length = cell.find("length");
      if (length == cell.end()) continue;
      const double at = length->get<double>();
      Family& family = view.families[FamilyOf(row, at)];
      if (family.metric.empty()) family.metric = FirstMetric(cell);
      const auto depth = cell.find("depth");
      const Value value = ValueOf(cell, family.metric, SamplesOf(cell, "samples"));
      if (depth != cell.end() && depth->is_number()) family.cells[at][depth->get<double>()] = value;
      const auto whole = rows.find(row);
      if (whole != rows.end()) family.lengths[at] = ValueOf(*whole, family.metric, SamplesOf(*whole, "sample_len"));
    }
  }
  return view;
}

/// "4K" for 4096.
std::string LengthText(double length) { return TickLabel(AxisScale::kLog2, length); }
std::string Percent(double share) { return fmt::format("{:.0f} %", 100 * share); }

std::string Shown(const Value& value) {
  if (!value.known) return "-";
  std::string text = fmt::format("{:.4g}", value.mean);
  if (value.error) text += fmt::format(" \u00b1 {:.2g}", *value.error);
  return text;
}

HeatCell CellOf(const Value& value, bool counts) {
  const double right = value.mean * static_cast<double>(value.samples);
  const bool whole = counts && std::abs(right - std::round(right)) < 1e-6;
  return {.share = value.mean,
          .label = whole ? fmt::format("{:.0f}/{}", right, value.samples) : fmt::format("{:.0f}", 100 * value.mean),
          .tooltip = fmt::format("{} of {} samples", Percent(value.mean), value.samples),
          .known = value.known};
}

std::string DepthText(double depth) { return fmt::format("{:.0f} %", 100 * depth); }

std::optional<HeatMap> DepthMap(const std::string& name, const Family& family, const std::string& label) {
  if (family.cells.empty()) return std::nullopt;
  HeatMap map{.title = name,
              .subtitle = label,
              .x_label = "length (tokens)",
              .y_label = "depth of the needle (0 %: the beginning)",
              .columns = {},
              .rows = {},
              .cells = {}};
  std::set<double> depths;
  for (const auto& [length, at] : family.cells) {
    map.columns.push_back(LengthText(length));
    for (const auto& [depth, value] : at) depths.insert(depth);
  }
  for (const double depth : depths) {
    map.rows.push_back(DepthText(depth));
    map.cells.emplace_back();
    for (const auto& [length, at] : family.cells) {
      const auto value = at.find(depth);
      map.cells.back().push_back(value == at.end() ? HeatCell{} : CellOf(value->second, /*counts=*/true));
    }
  }
  return map;
}

bool IsRuler(const std::string& family) { return family.starts_with("ruler_"); }

/// The families of RULER that a run has, in the order of the paper.
std::vector<std::string> RulerFamilies(const RunView& run) {
  std::vector<std::string> names;
  for (const RulerTask& task : RulerTasks()) {
    std::string name = fmt::format("ruler_{}", task.name);
    if (run.families.contains(name)) names.push_back(std::move(name));
  }
  return names;
}

std::optional<HeatMap> RulerMap(const RunView& run) {
  HeatMap map{.title = "RULER",
              .subtitle = run.label,
              .x_label = "length (tokens)",
              .y_label = "score in percent, by task",
              .columns = {},
              .rows = {},
              .cells = {}};
  std::set<double> lengths;
  for (const std::string& name : RulerFamilies(run)) {
    for (const auto& [length, value] : run.families.at(name).lengths) lengths.insert(length);
  }
  for (const double length : lengths) map.columns.push_back(LengthText(length));
  for (const std::string& name : RulerFamilies(run)) {
    const Family& family = run.families.at(name);
    map.rows.push_back(name.substr(6));
    map.cells.emplace_back();
    for (const double length : lengths) {
      const auto value = family.lengths.find(length);
      map.cells.back().push_back(value == family.lengths.end() ? HeatCell{} : CellOf(value->second, /*counts=*/false));
    }
  }
  if (map.rows.empty()) return std::nullopt;
  return map;
}

/// Mean over tasks at each length, with the error of that mean.
std::map<double, Value> RulerMeans(const RunView& run) {
  std::map<double, std::vector<Value>> by_length;
  for (const std::string& name : RulerFamilies(run)) {
    for (const auto& [length, value] : run.families.at(name).lengths) {
      if (value.known) by_length[length].push_back(value);
    }
  }
  std::map<double, Value> means;
  for (const auto& [length, values] : by_length) {
    Value& mean = means[length];
    double squares = 0;
    for (const Value& value : values) {
      mean.mean += value.mean / static_cast<double>(values.size());
      mean.samples += value.samples;
      squares += value.error ? *value.error * *value.error : 0;
    }
    mean.error = std::sqrt(squares) / static_cast<double>(values.size());
    mean.known = true;
  }
  return means;
}

PlotSeries SeriesOf(const std::string& name, const std::map<double, Value>& values) {
  PlotSeries series{.name = name, .x = {}, .y = {}, .low = {}, .high = {}};
  const bool bands = std::ranges::all_of(values, [](const auto& at) { return at.second.error.has_value(); });
  for (const auto& [length, value] : values) {
    if (!value.known) continue;
    series.x.push_back(length);
    series.y.push_back(100 * value.mean);
    if (!bands) continue;
    series.low.push_back(std::max(0.0, 100 * (value.mean - *value.error)));
    series.high.push_back(std::min(100.0, 100 * (value.mean + *value.error)));
  }
  return series;
}

std::string CsvOf(const LinePlot& plot) {
  std::string csv = "series,length,percent,low,high\n";
  for (const PlotSeries& series : plot.series) {
    for (size_t i = 0; i < series.x.size(); ++i) {
      csv += fmt::format("{},{},{},{},{}\n", CsvField(series.name), series.x[i], series.y[i],
                         series.low.empty() ? "" : fmt::format("{}", series.low[i]),
                         series.high.empty() ? "" : fmt::format("{}", series.high[i]));
    }
  }
  return csv;
}

std::string CsvOf(const BarPlot& plot) {
  std::string csv = "group,series,value\n";
  for (const BarSeries& series : plot.series) {
    for (size_t g = 0; g < plot.groups.size(); ++g) {
      if (std::isnan(series.values[g])) continue;
      csv += fmt::format("{},{},{}\n", CsvField(plot.groups[g]), CsvField(series.name), series.values[g]);
    }
  }
  return csv;
}

/// Collects sections and pictures of one page.
class Report {
 public:
  explicit Report(std::span<const RunView> runs) : runs_(runs) {}

  void Add(std::string html) { html_ += html; }
  void Add(const HeatMap& map, const std::string& name, std::vector<std::string>* beside) {
    beside->push_back(HtmlHeatMap(map));
    pictures_.push_back({name, RenderSvg(map), HeatMapCsv(map)});
  }
  template <class Plot>
  void AddPlot(const Plot& plot, const std::string& name, std::vector<std::string>* beside) {
    beside->push_back(HtmlPlot(plot));
    pictures_.push_back({name, RenderSvg(plot), CsvOf(plot)});
  }

  void AddNeedles() {
    std::set<std::string> names;
    for (const RunView& run : runs_) {
      for (const auto& [name, family] : run.families) {
        if (!IsRuler(name)) names.insert(name);
      }
    }
    for (const std::string& name : names) {
      std::vector<std::string> beside;
      LinePlot lines{.title = name + " by length",
                     .subtitle = "mean over all depths; band: one standard error",
                     .x = {.label = "length (tokens)", .scale = AxisScale::kLog2},
                     .y = {.label = "found (%)", .min = 0.0, .max = 100.0},
                     .series = {},
                     .marks = {}};
      for (size_t r = 0; r < runs_.size(); ++r) {
        const auto family = runs_[r].families.find(name);
        if (family == runs_[r].families.end()) continue;
        if (const std::optional<HeatMap> map = DepthMap(name, family->second, runs_[r].label)) {
          Add(*map, fmt::format("{}-{}", name, r + 1), &beside);
        }
        lines.series.push_back(SeriesOf(runs_[r].label, family->second.lengths));
      }
      const bool several = std::ranges::any_of(lines.series, [](const PlotSeries& s) { return s.x.size() > 1; });
      if (several) {
        AddPlot(lines, name + "-lengths", &beside);
      } else if (runs_.size() > 1) {
        AddPlot(Bars({name}, name), name + "-runs", &beside);
      }
      Add(fmt::format("<h2>{}</h2>\n{}", EscapeXml(name), HtmlPlots(beside)));
      AddDistances(name);
    }
  }

  void AddRuler() {
    std::vector<std::string> beside;
    LinePlot lines{.title = "RULER by length",
                   .subtitle = "mean over the tasks that were run; band: one standard error",
                   .x = {.label = "length (tokens)", .scale = AxisScale::kLog2},
                   .y = {.label = "score (%)", .min = 0.0, .max = 100.0},
                   .series = {},
                   .marks = {}};
    std::vector<std::string> groups;
    for (size_t r = 0; r < runs_.size(); ++r) {
      const std::optional<HeatMap> map = RulerMap(runs_[r]);
      if (!map) continue;
      Add(*map, fmt::format("ruler-{}", r + 1), &beside);
      lines.series.push_back(SeriesOf(runs_[r].label, RulerMeans(runs_[r])));
      for (const std::string& name : RulerFamilies(runs_[r])) {
        if (std::ranges::find(groups, name) == groups.end()) groups.push_back(name);
      }
    }
    if (beside.empty()) return;
    if (std::ranges::any_of(lines.series, [](const PlotSeries& s) { return s.x.size() > 1; })) {
      AddPlot(lines, "ruler-lengths", &beside);
    }
    if (runs_.size() > 1) AddPlot(Bars(groups, "RULER by task"), "ruler-tasks", &beside);
    Add("<h2>RULER</h2>\n" + HtmlPlots(beside));
  }

  /// All rows without a length, as bars: one group a row, one bar a run.
  void AddOthers() {
    std::vector<std::string> groups;
    BarPlot plot{
        .title = "Tasks", .subtitle = "share of right answers", .y = {.label = "percent"}, .groups = {}, .series = {}};
    for (const RunView& run : runs_) {
      const json& rows = RowsOf(*run.results);
      for (const auto& [name, row] : rows.items()) {
        const std::string metric = FirstMetric(row);
        const bool share =
            metric.starts_with("acc") || metric.starts_with("exact_match") || metric.starts_with("score");
        if (!share || OfLengths(run, name) || InGroup(run, name) || std::ranges::find(groups, name) != groups.end())
          continue;
        groups.push_back(name);
      }
    }
    if (groups.empty()) return;
    for (const RunView& run : runs_) {
      BarSeries series{.name = runs_.size() > 1 ? run.label : "", .values = {}};
      const json& rows = RowsOf(*run.results);
      for (const std::string& name : groups) {
        const auto row = rows.find(name);
        const Value value = row == rows.end() ? Value{} : ValueOf(*row, FirstMetric(*row), 0);
        series.values.push_back(value.known ? 100 * value.mean : NAN);
      }
      plot.series.push_back(std::move(series));
    }
    plot.groups = groups;
    std::vector<std::string> beside;
    AddPlot(plot, "tasks", &beside);
    Add("<h2>Tasks</h2>\n" + HtmlPlots(beside));
  }

  void AddTable() {
    std::vector<std::vector<std::string>> rows = {{"task", "metric"}};
    for (const RunView& run : runs_) rows[0].push_back(runs_.size() > 1 ? run.label : "value \u00b1 standard error");
    rows[0].push_back("samples");
    std::vector<std::pair<std::string, std::string>> keys;
    for (const RunView& run : runs_) {
      for (const auto& [name, row] : RowsOf(*run.results).items()) {
        for (const auto& [key, value] : row.items()) {
          if (key.find(',') == key.npos || key.find("_stderr,") != key.npos) continue;
          if (std::ranges::find(keys, std::pair(name, key)) == keys.end()) keys.emplace_back(name, key);
        }
      }
    }
    for (const auto& [name, key] : keys) {
      const std::string filter = key.substr(key.find(',') + 1);
      std::vector<std::string> row = {name,
                                      key.substr(0, key.find(',')) + (filter == "none" ? "" : " (" + filter + ")")};
      int64_t samples = 0;
      for (const RunView& run : runs_) {
        const json& of = RowsOf(*run.results);
        const auto found = of.find(name);
        row.push_back(found == of.end() ? "-" : Shown(ValueOf(*found, key, 0)));
        if (found != of.end()) samples = std::max(samples, RowSamples(*run.results, name));
      }
      row.push_back(samples > 0 ? HumanCount(samples) : "-");
      rows.push_back(std::move(row));
    }
    Add("<h2>All results</h2>\n" + HtmlTable(rows));
  }

  void AddRuns() {
    std::vector<std::vector<std::string>> rows = {
        {"run", "model", "cache", "attention", "positions", "weights", "seconds"}};
    for (const RunView& run : runs_) {
      const json engine = run.results->value("engine", json::object());
      const auto text = [&](const char* key) {
        const auto member = engine.find(key);
        return member != engine.end() && member->is_string() ? member->get<std::string>() : std::string("-");
      };
      const json& results = *run.results;
      const auto of = [&](const char* key) {
        const auto member = results.find(key);
        return member == results.end() ? std::string("-")
               : member->is_string()   ? member->get<std::string>()
                                       : member->dump();
      };
      const bool behind = engine.contains("index");
      const std::string cache = text("cache") + (behind ? ", behind an index of " + text("index") : "");
      rows.push_back({run.label, of("model_name"), cache, text("attention"), text("rope"), text("weights_dtype"),
                      of("total_evaluation_time_seconds")});
    }
    Add("<h2>Runs</h2>\n" + HtmlTable(rows));
  }

  TaskReport Take(std::string_view title) && {
    return {.html = HtmlPage(title, html_), .pictures = std::move(pictures_)};
  }
  std::vector<ReportPicture>* pictures() { return &pictures_; }

 private:
  /// Whether a row is drawn by length, or sums up rows that are. `most`: groups in groups; a file may name one in
  /// itself.
  static bool OfLengths(const RunView& run, const std::string& row, int most = 8) {
    const auto cells = run.results->find("cells");
    if (cells == run.results->end()) return false;
    if (cells->contains(row)) return true;
    const auto groups = run.results->find("group_subtasks");
    if (groups == run.results->end() || !groups->contains(row) || most == 0) return false;
    return std::ranges::any_of((*groups)[row], [&](const json& below) {
      return below.is_string() && OfLengths(run, below.get<std::string>(), most - 1);
    });
  }

  static bool InGroup(const RunView& run, const std::string& row) {
    const auto groups = run.results->find("group_subtasks");
    if (groups == run.results->end() || !groups->is_object()) return false;
    return std::ranges::any_of(*groups, [&](const json& below) {
      return below.is_array() && std::ranges::find(below, json(row)) != below.end();
    });
  }

  /// Means over lengths of some families, a group each.
  BarPlot Bars(const std::vector<std::string>& names, const std::string& title) const {
    BarPlot plot{.title = title,
                 .subtitle = "mean over all lengths",
                 .y = {.label = "percent", .min = 0.0, .max = 100.0},
                 .groups = {},
                 .series = {}};
    for (const std::string& name : names) plot.groups.push_back(IsRuler(name) ? name.substr(6) : name);
    for (const RunView& run : runs_) {
      BarSeries series{.name = run.label, .values = {}};
      for (const std::string& name : names) {
        double sum = 0, count = 0;
        const auto family = run.families.find(name);
        if (family != run.families.end()) {
          for (const auto& [length, value] : family->second.lengths) {
            if (value.known) sum += value.mean, ++count;
          }
        }
        series.values.push_back(count > 0 ? 100 * sum / count : NAN);
      }
      plot.series.push_back(std::move(series));
    }
    return plot;
  }

  /// The distance up to which passkeys are found (k_max), a row a run.
  void AddDistances(const std::string& name) {
    std::vector<std::vector<std::string>> rows = {{"run", "k_max (tokens)"}};
    for (const RunView& run : runs_) {
      const json& figures = run.results->value("figures", json());
      const json of = figures.is_object() ? figures.value(name, json()) : json();
      const json most = of.is_object() ? of.value("k_max", json()) : json();
      if (most.is_number()) rows.push_back({run.label, HumanCount(std::llround(most.get<double>()))});
    }
    if (rows.size() == 1) return;
    Add("<p class=\"note\">k_max: the largest distance in tokens from key to end of the prompt such that the share "
        "found is 20 % or more at it and at every smaller one.</p>\n" +
        HtmlTable(rows));
  }

  std::span<const RunView> runs_;
  std::string html_;
  std::vector<ReportPicture> pictures_;
};

}  // namespace

TaskReport MakeTaskReport(std::string_view title, std::span<const ReportRun> runs, const TaskReport& extra) {
  std::vector<RunView> views;
  const std::vector<std::string> labels = RunLabels(runs);
  for (size_t r = 0; r < runs.size(); ++r) {
    views.push_back(WithFrame(runs[r].name, [&] { return ViewOf(runs[r], labels[r]); }));
  }
  Report report(views);
  if (!views.empty()) {
    report.AddNeedles();
    report.AddRuler();
    report.AddOthers();
  }
  report.Add(extra.html);
  for (const ReportPicture& picture : extra.pictures) report.pictures()->push_back(picture);
  if (!views.empty()) {
    report.AddTable();
    report.AddRuns();
  }
  return std::move(report).Take(title);
}

}  // namespace hawser
