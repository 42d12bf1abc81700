#include "hawser/eval/plot_input.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <string_view>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/eval/retrieval.h"
#include "hawser/io/json.h"

namespace hawser {

const char* const kPlotForm =
    "{\"title\", \"subtitle\", \"x\": {\"label\", \"scale\": linear|log2|log10, \"min\", \"max\"}, \"y\": the same, "
    "\"series\": [{\"name\", \"x\": [..], \"y\": [..], \"low\": [..], \"high\": [..] (spread), \"dashed\"}], "
    "\"marks\": "
    "[{\"x\", \"name\"}]}; a null among the numbers leaves a gap";

namespace {

using nlohmann::json;

void CheckMembers(const json& object, const std::string& name, const std::set<std::string>& known) {
  for (const auto& [key, value] : object.items()) {
    if (!known.contains(key)) Fail(ErrorKind::kFormat, "{}: unknown member '{}'", name, key);
  }
}

AxisScale ParseScale(const std::string& text) {
  if (text == "linear") return AxisScale::kLinear;
  if (text == "log2") return AxisScale::kLog2;
  if (text == "log10") return AxisScale::kLog10;
  Fail(ErrorKind::kFormat, "scale '{}': wanted linear, log2 or log10", text);
}

Axis ParseAxis(const json& json, const char* name) {
  const JsonObject object(json, name);
  CheckMembers(json, name, {"label", "scale", "min", "max"});
  Axis axis{.label = object.StringOr("label", ""), .scale = ParseScale(object.StringOr("scale", "linear"))};
  if (object.Find("min") != nullptr) axis.min = object.Number("min");
  if (object.Find("max") != nullptr) axis.max = object.Number("max");
  return axis;
}

const json& List(const JsonObject& object, const char* key) {
  static const json none = json::array();
  const json* list = object.Find(key);
  if (list == nullptr) return none;
  if (!list->is_array())
    Fail(ErrorKind::kFormat, "{}: '{}' is {}, wanted a list", object.name(), key, list->type_name());
  return *list;
}

std::vector<double> Numbers(const JsonObject& object, const char* key) {
  std::vector<double> numbers;
  for (const json& value : List(object, key)) {
    if (!value.is_number() && !value.is_null()) {
      Fail(ErrorKind::kFormat, "{}: '{}' holds {}, wanted numbers", object.name(), key, value.type_name());
    }
    numbers.push_back(value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.get<double>());
  }
  return numbers;
}

/// Each curve is held against all others, to keep those apart that coincide.
void CheckSeries(const LinePlot& plot) {
  constexpr size_t kMost = 64;
  if (plot.series.size() > kMost) {
    Fail(ErrorKind::kFormat, "{} series; a plot has {} at most", plot.series.size(), kMost);
  }
}

LinePlot ParseForm(const json& value) {
  const JsonObject object(value, "plot");
  CheckMembers(value, "plot", {"title", "subtitle", "x", "y", "series", "marks"});
  LinePlot plot{.title = object.StringOr("title", ""), .subtitle = object.StringOr("subtitle", "")};
  if (const json* x = object.Find("x")) plot.x = ParseAxis(*x, "x");
  if (const json* y = object.Find("y")) plot.y = ParseAxis(*y, "y");
  for (const json& member : List(object, "series")) {
    const JsonObject one(member, fmt::format("series {}", plot.series.size()));
    CheckMembers(member, one.name(), {"name", "x", "y", "low", "high", "dashed"});
    PlotSeries series{.name = one.StringOr("name", ""),
                      .x = Numbers(one, "x"),
                      .y = Numbers(one, "y"),
                      .low = Numbers(one, "low"),
                      .high = Numbers(one, "high"),
                      .dashed = one.BoolOr("dashed", false)};
    if (series.x.size() != series.y.size()) {
      Fail(ErrorKind::kFormat, "{}: {} values of x, {} of y", one.name(), series.x.size(), series.y.size());
    }
    if (series.low.size() != series.high.size() || (!series.low.empty() && series.low.size() != series.x.size())) {
      Fail(ErrorKind::kFormat, "{}: {} values of low and {} of high for {} of x; wanted as many, or none of both",
           one.name(), series.low.size(), series.high.size(), series.x.size());
    }
    plot.series.push_back(std::move(series));
  }
  for (const json& member : List(object, "marks")) {
    const JsonObject one(member, "mark");
    CheckMembers(member, one.name(), {"x", "name"});
    plot.marks.push_back({one.Number("x"), one.StringOr("name", "")});
  }
  if (plot.series.empty()) Fail(ErrorKind::kFormat, "no series");
  CheckSeries(plot);
  return plot;
}

enum class ResultKind { kForm, kMetrics, kWindows, kStream, kRetrieval };

constexpr std::string_view Describe(ResultKind kind) {
  switch (kind) {
    case ResultKind::kForm:
      return "a plot";
    case ResultKind::kMetrics:
      return "metrics of training";
    case ResultKind::kWindows:
      return "eval ppl over windows";
    case ResultKind::kStream:
      return "eval ppl of a stream";
    case ResultKind::kRetrieval:
      return "eval retrieval";
  }
  return "";
}

/// Rows of numbers with a name: lines of metrics, buckets, stretches.
struct Result {
  ResultKind kind = ResultKind::kForm;
  std::string name;
  json value;  // the whole object, but of metrics
  std::vector<json> rows;
};

std::optional<double> NumberIn(const json& row, const std::string& key) {
  const auto found = row.find(key);
  if (found == row.end() || !found->is_number()) return std::nullopt;
  return found->get<double>();
}

Result ReadObject(json value, const std::string& stem) {
  if (!value.is_object()) Fail(ErrorKind::kFormat, "wanted an object, found {}", value.type_name());
  Result result{.name = stem};
  if (value.contains("series") || !value.contains("task")) {
    result.value = std::move(value);
    return result;
  }
  const JsonObject object(value, "result");
  const std::string task = object.String("task");
  if (task != "ppl" && task != "retrieval") {
    Fail(ErrorKind::kFormat, "a result of the task '{}'; ppl and retrieval can be drawn", task);
  }
  const bool stream = value.contains("windows");
  result.kind = task == "retrieval" ? ResultKind::kRetrieval : stream ? ResultKind::kStream : ResultKind::kWindows;
  for (const json& row : List(object, stream ? "windows" : "buckets")) {
    if (!row.is_object()) Fail(ErrorKind::kFormat, "a row is {}, wanted an object", row.type_name());
    if (!NumberIn(row, "begin") || !NumberIn(row, "end")) Fail(ErrorKind::kFormat, "a row without begin and end");
    result.rows.push_back(row);
  }
  result.value = std::move(value);
  return result;
}

/// Every result of a file: one object, or an object a line.
std::vector<Result> ReadResults(std::filesystem::path path, const ReadsFile& read) {
  std::string stem = path.stem().string();
  if (std::filesystem::is_directory(path)) path /= "metrics.jsonl";
  if (path.filename() == "metrics.jsonl" && path.has_parent_path()) {
    stem = std::filesystem::absolute(path).lexically_normal().parent_path().filename().string();
  }
  const std::string text = read(path);
  return WithFrame(path.string(), [&] {
    std::vector<json> lines;
    const size_t first_end = std::min(text.find('\n'), text.size());
    bool by_line = false;
    try {
      by_line =
          text.find_first_not_of(" \t\r\n", first_end) != text.npos && ParseJson(text.substr(0, first_end)).is_object();
    } catch (const Error&) {  // an object over several lines
    }
    if (!by_line) {
      lines.push_back(ParseJson(text));
    } else {
      for (size_t begin = 0, number = 1; begin < text.size(); ++number) {
        const size_t end = std::min(text.find('\n', begin), text.size());
        const std::string_view line = std::string_view(text).substr(begin, end - begin);
        // A run under way may be writing its last line.
        const bool cut = end == text.size();
        begin = end + 1;
        if (line.find_first_not_of(" \t\r") == line.npos) continue;
        try {
          lines.push_back(ParseJson(line));
        } catch (const Error& error) {
          if (cut) break;
          Fail(ErrorKind::kFormat, "line {}: {}", number, error.what());
        }
      }
    }
    std::vector<Result> results;
    for (json& line : lines) {
      if (line.is_object() && line.contains("step") && !line.contains("series") && !line.contains("task")) {
        if (!line["step"].is_number())
          Fail(ErrorKind::kFormat, "'step' is {}, wanted a number", line["step"].type_name());
        if (results.empty() || results.back().kind != ResultKind::kMetrics) {
          results.push_back({.kind = ResultKind::kMetrics, .name = stem});
        }
        results.back().rows.push_back(std::move(line));
      } else {
        results.push_back(ReadObject(std::move(line), stem));
      }
    }
    if (results.empty()) Fail(ErrorKind::kFormat, "holds nothing to draw");
    return results;
  });
}

/// Names of results by what tells them apart.
void NameResults(std::vector<Result>* results) {
  const auto distinct = [&](auto&& name_of) {
    std::set<std::string> names;
    for (const Result& result : *results) names.insert(name_of(result));
    return names.size() == results->size();
  };
  const auto member = [](const char* key) {
    return [key](const Result& result) {
      const auto found = result.value.find(key);
      if (found == result.value.end() || !found->is_string()) return std::string();
      const std::string text = found->get<std::string>();
      return key == std::string_view("model") ? std::filesystem::path(text).filename().string() : text;
    };
  };
  const auto take = [&](auto&& name_of) {
    for (Result& result : *results) result.name = name_of(result);
  };
  if (distinct([](const Result& result) { return result.name; })) return;
  for (const char* key : {"model", "kv_policy", "attention", "rope", "dtype"}) {
    if (distinct(member(key))) return take(member(key));
  }
  for (size_t i = 0; i < results->size(); ++i) (*results)[i].name += fmt::format(" ({})", i + 1);
}

/// Numbers that rows have, for a message.
std::string NumbersIn(const std::vector<Result>& results) {
  std::set<std::string> keys;
  for (const Result& result : results) {
    for (const json& row : result.rows) {
      for (const auto& [key, value] : row.items()) {
        if (value.is_number()) keys.insert(key);
      }
    }
  }
  return fmt::format("{}", fmt::join(keys, ", "));
}

double XOf(ResultKind kind, const json& row) {
  if (kind == ResultKind::kMetrics) return row["step"].get<double>();
  const double begin = row["begin"].get<double>(), end = row["end"].get<double>();
  if (kind == ResultKind::kStream) return end;
  return std::sqrt(std::max(begin, 1.0) * std::max(end, 1.0));
}

PlotSeries SeriesOf(const Result& result, const std::string& key, std::string name) {
  PlotSeries series{.name = std::move(name)};
  const bool share = result.kind == ResultKind::kRetrieval && key == "accuracy";
  for (const json& row : result.rows) {
    const auto y = NumberIn(row, key);
    if (!y) continue;
    series.x.push_back(XOf(result.kind, row));
    series.y.push_back(share ? 100 * *y : *y);
    if (!share) continue;
    const RetrievalBucket bucket{
        .questions = std::llround(std::clamp(NumberIn(row, "questions").value_or(0), 0.0, 1e15)),
        .correct = std::llround(std::clamp(NumberIn(row, "correct").value_or(0), 0.0, 1e15))};
    const auto [low, high] = bucket.interval();
    series.low.push_back(100 * low);
    series.high.push_back(100 * high);
  }
  return series;
}

LinePlot PlotOfResults(std::vector<Result> results, const std::string& wanted) {
  const ResultKind kind = results[0].kind;
  for (const Result& result : results) {
    if (result.kind == kind) continue;
    Fail(ErrorKind::kUsage, "{} and {} in one plot; give results of one kind", Describe(kind), Describe(result.kind));
  }
  NameResults(&results);
  LinePlot plot;
  std::string key = wanted;
  switch (kind) {
    case ResultKind::kMetrics:
      if (key.empty()) key = "loss";
      plot.title = key == "loss" ? "Loss" : key;
      plot.x.label = "step";
      plot.y.label = key == "loss" ? "nats a token" : "";
      break;
    case ResultKind::kWindows:
    case ResultKind::kStream:
      if (key.empty()) key = "ppl";
      plot.title = key == "ppl" ? "Perplexity" : key;
      plot.y = {.label = key == "ppl" ? "perplexity" : key};
      plot.x.label = "tokens read";
      if (kind == ResultKind::kStream) break;
      plot.title += " by position";
      plot.x = {.label = "position (tokens)", .scale = AxisScale::kLog2};
      if (key == "ppl") plot.y.scale = AxisScale::kLog10;
      break;
    default:
      if (key.empty()) key = "accuracy";
      plot.title = key == "accuracy" ? "Retrieval by distance" : key + " by distance";
      plot.x = {.label = "tokens between fact and question", .scale = AxisScale::kLog2};
      plot.y.label = key;
      if (key != "accuracy") break;
      plot.subtitle = "band: one standard error";
      plot.y = {.label = "correct (%)", .min = 0.0, .max = 100.0};
  }
  for (const Result& result : results) {
    std::string name = results.size() > 1 ? result.name : "";
    PlotSeries validation = SeriesOf(result, "validation_loss", name.empty() ? "validation" : name + ", validation");
    const bool validated = kind == ResultKind::kMetrics && key == "loss" && !validation.x.empty();
    if (validated && name.empty()) name = "training";
    PlotSeries series = SeriesOf(result, key, name);
    if (!series.x.empty()) plot.series.push_back(std::move(series));
    if (validated) plot.series.push_back(std::move(validation));
  }
  if (plot.series.empty()) {
    Fail(ErrorKind::kUsage, "no number '{}' in {}; there are: {}", key, Describe(kind), NumbersIn(results));
  }
  CheckSeries(plot);
  if (results.size() == 1 && kind != ResultKind::kRetrieval) plot.subtitle = results[0].name;
  return plot;
}

}  // namespace

LinePlot PlotOfFiles(std::span<const std::filesystem::path> files, const std::string& y, const ReadsFile& read) {
  std::vector<Result> results;
  for (const std::filesystem::path& file : files) {
    for (Result& result : ReadResults(file, read)) {
      if (result.kind != ResultKind::kForm) {
        results.push_back(std::move(result));
        continue;
      }
      if (files.size() > 1) Fail(ErrorKind::kUsage, "{}: a plot form is drawn by itself", file.string());
      if (!y.empty()) Fail(ErrorKind::kUsage, "--y chooses among results; {} says itself what is drawn", file.string());
      return WithFrame(file.string(), [&] { return ParseForm(result.value); });
    }
  }
  return PlotOfResults(std::move(results), y);
}

}  // namespace hawser
