#include "hawser/eval/run_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "hawser/base/file.h"
#include "hawser/eval/page.h"
#include "hawser/eval/plot.h"
#include "hawser/eval/report.h"
#include "hawser/train/metrics.h"

namespace hawser {
namespace {

using Lines = std::vector<nlohmann::json>;

constexpr size_t kMostPoints = 600;

std::optional<double> NumberOf(const nlohmann::json& line, const char* key) {
  const auto found = line.find(key);
  if (found == line.end() || !found->is_number()) return std::nullopt;
  const double value = found->get<double>();
  return std::isfinite(value) ? std::optional(value) : std::nullopt;
}

/// A curve of `key` over steps, in means of equally many lines each, with their least and greatest as its
/// spread.
PlotSeries Curve(const Lines& lines, const char* key, std::string name, bool dashed = false) {
  std::vector<std::pair<double, double>> points;
  for (const nlohmann::json& line : lines) {
    if (const auto value = NumberOf(line, key)) points.emplace_back(line["step"].get<double>(), *value);
  }
  const size_t grain = (points.size() + kMostPoints - 1) / kMostPoints;
  PlotSeries series{.name = std::move(name), .dashed = dashed};
  for (size_t begin = 0; begin < points.size(); begin += grain) {
    const size_t end = std::min(begin + grain, points.size());
    double x = 0, y = 0, low = points[begin].second, high = low;
    for (size_t i = begin; i < end; ++i) {
      x += points[i].first;
      y += points[i].second;
      low = std::min(low, points[i].second);
      high = std::max(high, points[i].second);
    }
    if (grain > 1) {
      series.low.push_back(low);
      series.high.push_back(high);
    }
    series.x.push_back(x / static_cast<double>(end - begin));
    series.y.push_back(y / static_cast<double>(end - begin));
  }
  return series;
}

std::string Plot(const Lines& lines, const char* key, std::string title, Axis y) {
  const Axis x{.label = "step"};
  PlotSeries curve = Curve(lines, key, "");
  return HtmlPlot(LinePlot{.title = std::move(title), .x = x, .y = std::move(y), .series = {std::move(curve)}});
}

std::string LossPlot(const Lines& lines) {
  LinePlot plot{.title = "Loss", .x = {.label = "step"}, .y = {.label = "nats a token"}};
  PlotSeries validation = Curve(lines, "validation_loss", "validation");
  const bool validated = !validation.x.empty();
  plot.series.push_back(Curve(lines, "loss", validated ? "training" : ""));
  if (validated) plot.series.push_back(std::move(validation));
  return HtmlPlot(plot);
}

/// "name value" pairs of what the last line says, and of the best validation.
std::string Summary(const Lines& lines) {
  if (lines.empty()) return "<p class=\"note\">No step is logged yet.</p>";
  const nlohmann::json& last = lines.back();
  std::string rows;
  const auto row = [&](std::string_view name, const std::string& value) {
    rows += fmt::format("<tr><th>{}</th><td>{}</td></tr>", name, EscapeXml(value));
  };
  const auto count = [](double value) { return HumanCount(std::llround(std::clamp(value, -0x1p62, 0x1p62))); };
  row("steps", count(last["step"].get<double>()));
  if (const auto tokens = NumberOf(last, "tokens")) row("tokens", count(*tokens));
  if (const auto padding = NumberOf(last, "padding"); padding && *padding > 0) row("padding", count(*padding));
  if (const auto loss = NumberOf(last, "loss")) row("loss of the last step", fmt::format("{:.4f} nats", *loss));
  std::optional<std::pair<double, int64_t>> best;
  for (const nlohmann::json& line : lines) {
    const auto loss = NumberOf(line, "validation_loss");
    if (loss && (!best || *loss < best->first)) best = {*loss, line["step"].get<int64_t>()};
  }
  if (best) {
    row("lowest validation loss", fmt::format("{:.4f} nats, perplexity {}, after step {}", best->first,
                                              HumanNumber(std::exp(best->first)), HumanCount(best->second)));
  }
  const auto seconds = NumberOf(last, "seconds"), tokens = NumberOf(last, "tokens");
  if (seconds) row("time in steps", HumanSeconds(*seconds));
  if (seconds && tokens && *seconds > 0) row("tokens/s, all steps", count(*tokens / *seconds));
  return "<div class=\"table\"><table>" + rows + "</table></div>";
}

}  // namespace

std::string RunReportPage(std::string_view title, std::string_view recipe, const Lines& metrics) {
  const std::string plots = HtmlPlots(
      {LossPlot(metrics), Plot(metrics, "lr", "Learning rate", {.label = "rate of the step"}),
       Plot(metrics, "grad_norm", "Gradient norm", {.label = "before clipping", .scale = AxisScale::kLog10}),
       Plot(metrics, "tokens_per_second", "Speed", {.label = "tokens/s", .min = 0.0}),
       Plot(metrics, "density", "Density", {.label = "visible share of causal pairs", .min = 0.0, .max = 1.0})});
  return HtmlPage(title,
                  fmt::format("{}\n{}<h2>Recipe</h2>\n<pre>{}</pre>", Summary(metrics), plots, EscapeLines(recipe)));
}

void WriteRunReport(const std::filesystem::path& run) {
  const std::string title = "Training run " + std::filesystem::absolute(run).lexically_normal().filename().string();
  WriteFileAtomically(run / "report.html",
                      RunReportPage(title, ReadFile(run / "recipe.toml"), ReadMetrics(run / "metrics.jsonl")));
}

}  // namespace hawser
