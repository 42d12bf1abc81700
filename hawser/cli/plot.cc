// hawser plot: curves that a script collected from --json results, as the SVG that reports of this program use.
#include <limits>
#include <set>
#include <string>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/progress.h"
#include "hawser/cli/command.h"
#include "hawser/eval/plot.h"
#include "hawser/io/json.h"

namespace hawser {
namespace {

struct PlotOptions {
  std::filesystem::path in, out;
};

constexpr std::string_view kHelp =
    "JSON: {\"title\", \"subtitle\", \"x\": {\"label\", \"scale\": linear|log2|log10, \"min\", \"max\"}, \"y\": the "
    "same, \"series\": [{\"name\", \"x\": [..], \"y\": [..], \"dashed\"}], \"marks\": [{\"x\", \"name\"}]}; a null "
    "among the numbers leaves a gap";

void CheckMembers(const nlohmann::json& object, const std::string& name, const std::set<std::string>& known) {
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

Axis ParseAxis(const nlohmann::json& json, const char* name) {
  const JsonObject object(json, name);
  CheckMembers(json, name, {"label", "scale", "min", "max"});
  Axis axis{.label = object.StringOr("label", ""), .scale = ParseScale(object.StringOr("scale", "linear"))};
  if (object.Find("min") != nullptr) axis.min = object.Number("min");
  if (object.Find("max") != nullptr) axis.max = object.Number("max");
  return axis;
}

const nlohmann::json& List(const JsonObject& object, const char* key) {
  static const nlohmann::json none = nlohmann::json::array();
  const nlohmann::json* list = object.Find(key);
  if (list == nullptr) return none;
  if (!list->is_array())
    Fail(ErrorKind::kFormat, "{}: '{}' is {}, wanted a list", object.name(), key, list->type_name());
  return *list;
}

std::vector<double> Numbers(const JsonObject& object, const char* key) {
  std::vector<double> numbers;
  for (const nlohmann::json& value : List(object, key)) {
    if (!value.is_number() && !value.is_null()) {
      Fail(ErrorKind::kFormat, "{}: '{}' holds {}, wanted numbers", object.name(), key, value.type_name());
    }
    numbers.push_back(value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.get<double>());
  }
  return numbers;
}

LinePlot ParsePlot(const std::string& text) {
  const nlohmann::json json = ParseJson(text);
  const JsonObject object(json, "plot");
  CheckMembers(json, "plot", {"title", "subtitle", "x", "y", "series", "marks"});
  LinePlot plot{.title = object.StringOr("title", ""), .subtitle = object.StringOr("subtitle", "")};
  if (const nlohmann::json* x = object.Find("x")) plot.x = ParseAxis(*x, "x");
  if (const nlohmann::json* y = object.Find("y")) plot.y = ParseAxis(*y, "y");
  for (const nlohmann::json& member : List(object, "series")) {
    const JsonObject one(member, fmt::format("series {}", plot.series.size()));
    CheckMembers(member, one.name(), {"name", "x", "y", "dashed"});
    PlotSeries series{.name = one.StringOr("name", ""), .x = Numbers(one, "x"), .y = Numbers(one, "y")};
    series.dashed = one.BoolOr("dashed", false);
    if (series.x.size() != series.y.size()) {
      Fail(ErrorKind::kFormat, "{}: {} values of x, {} of y", one.name(), series.x.size(), series.y.size());
    }
    plot.series.push_back(std::move(series));
  }
  for (const nlohmann::json& member : List(object, "marks")) {
    const JsonObject one(member, "mark");
    CheckMembers(member, one.name(), {"x", "name"});
    plot.marks.push_back({one.Number("x"), one.StringOr("name", "")});
  }
  if (plot.series.empty()) Fail(ErrorKind::kFormat, "no series");
  return plot;
}

int RunPlot(const PlotOptions& options, const CommonOptions& common) {
  const std::string text = ReadFile(options.in);
  const LinePlot plot = WithFrame(options.in.string(), [&] { return ParsePlot(text); });
  const std::string svg = RenderSvg(plot);
  WriteFileAtomically(options.out, svg);
  if (common.json) {
    PrintJson({{"out", options.out.string()}, {"series", plot.series.size()}, {"bytes", svg.size()}});
  } else {
    LogLine(fmt::format("{}: {} series", options.out.string(), plot.series.size()));
  }
  return 0;
}

}  // namespace

std::function<int()> SetupPlot(Command command, CommonOptions& common) {
  auto options = std::make_shared<PlotOptions>();
  command.Add("FILE", options->in, std::string(kHelp)).Required();
  command.Add("--out", options->out, "File to write, .svg").Required();
  return [options, &common] { return RunPlot(*options, common); };
}

}  // namespace hawser
