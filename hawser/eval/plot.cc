#include "hawser/eval/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "hawser/base/error.h"
#include "hawser/eval/plot_canvas.h"
#include "hawser/eval/plot_lines.h"
#include "hawser/eval/report.h"

namespace hawser {
namespace {

struct Picture {
  std::string svg;
  double height = 0;
};

Picture Draw(const LinePlot& plot) {
  PlotCanvas canvas(plot.width, plot.height, plot.title, plot.subtitle);
  PlotRange x_range(plot.x), y_range(plot.y);
  std::vector<PlotCanvas::LegendEntry> legend;
  for (const PlotSeries& series : plot.series) {
    HAWSER_CHECK(series.x.size() == series.y.size() && series.low.size() == series.high.size());
    HAWSER_CHECK(series.low.empty() || series.low.size() == series.x.size());
    legend.push_back({series.name, series.dashed, HasMarks(series)});
    for (size_t i = 0; i < series.x.size(); ++i) {
      if (!PlotScale{.kind = plot.x.scale}.Shows(series.x[i]) || !PlotScale{.kind = plot.y.scale}.Shows(series.y[i]))
        continue;
      x_range.Add(series.x[i]);
      y_range.Add(series.y[i]);
      if (series.low.empty()) continue;
      y_range.Add(series.low[i]);
      y_range.Add(series.high[i]);
    }
  }
  if (y_range.empty()) return {canvas.FinishEmpty(), canvas.height()};
  canvas.Legend(legend, /*lines=*/true);
  PlotScale y = y_range.Settle(/*tight=*/false, /*from_zero=*/false, canvas.TickCount());
  canvas.Frame(plot.y, y, plot.x.label.empty() ? 30 : 46);
  PlotScale x = x_range.Settle(/*tight=*/true, /*from_zero=*/false, 0);
  x.from = canvas.left() + 6;
  x.to = canvas.right();
  canvas.Marks(plot.marks, x);
  canvas.YAxis(plot.y, &y);
  canvas.Baseline(plot.x.label);
  canvas.XAxis(plot.x, x);
  canvas.BeginClip();
  canvas.Add(DrawSeries(plot.series, x, y));
  canvas.EndClip();
  return {canvas.Finish(), canvas.height()};
}

}  // namespace

std::string RenderSvg(const LinePlot& plot) { return Draw(plot).svg; }

std::string RenderSvg(std::span<const LinePlot> plots) {
  std::string inside;
  double y = 0;
  for (const LinePlot& plot : plots) {
    const Picture picture = Draw(plot);
    inside += fmt::format("<g transform=\"translate(0 {:.0f})\">\n{}</g>\n", y, picture.svg);
    y += picture.height;
  }
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1:.0f}\" viewBox=\"0 0 {0} {1:.0f}\">\n{2}"
      "</svg>\n",
      plots.empty() ? 0 : plots[0].width, y, inside);
}

std::string RenderSvg(const BarPlot& plot) {
  PlotCanvas canvas(plot.width, plot.height, plot.title, plot.subtitle);
  PlotRange range(plot.y);
  std::vector<PlotCanvas::LegendEntry> legend;
  for (const BarSeries& series : plot.series) {
    HAWSER_CHECK(series.values.size() == plot.groups.size());
    legend.push_back({.name = series.name});
    for (const double value : series.values) range.Add(value);
  }
  if (range.empty()) return canvas.FinishEmpty();
  canvas.Legend(legend, /*lines=*/false);
  PlotScale y = range.Settle(/*tight=*/false, /*from_zero=*/true, canvas.TickCount());
  const auto groups = static_cast<double>(std::max<size_t>(1, plot.groups.size()));
  const auto bars = static_cast<double>(std::max<size_t>(1, plot.series.size()));
  double widest = 0;
  for (const std::string& group : plot.groups) widest = std::max(widest, TextWidth(group, 12));
  constexpr double kMostName = 130;  // pixels of a slanted name
  const bool slanted = widest + 8 > (plot.width - 72) / groups;
  canvas.Frame(plot.y, y, slanted ? 24 + 0.6 * std::min(widest, kMostName) : 30);
  canvas.YAxis(plot.y, &y);
  const double group_width = (canvas.right() - canvas.left()) / groups;
  const auto every = static_cast<size_t>(std::max(1.0, std::ceil(20 / group_width)));  // group that is named
  const double bar_width = std::min(64.0, 0.76 * group_width / bars);
  const double zero = std::clamp(y.kind == AxisScale::kLinear ? y(0) : y.from, canvas.top(), canvas.bottom());
  for (size_t g = 0; g < plot.groups.size(); ++g) {
    const double middle = canvas.left() + (static_cast<double>(g) + 0.5) * group_width;
    for (size_t s = 0; s < plot.series.size(); ++s) {
      const double value = plot.series[s].values[g];
      if (!y.Shows(value)) continue;
      const double left = middle + (static_cast<double>(s) - bars / 2) * bar_width;
      const double end = std::clamp(y(value), canvas.top(), canvas.bottom());
      const std::string& name = plot.series[s].name;
      canvas.Add(SeriesBar(s,
                           {.x = left + 1,
                            .y = std::min(zero, end),
                            .width = std::max(1.0, bar_width - 2),
                            .height = std::abs(zero - end)},
                           fmt::format("<title>{}{}: {}</title>", EscapeXml(plot.groups[g]),
                                       name.empty() ? "" : ", " + EscapeXml(name), HumanNumber(value))));
      const std::string label = std::abs(value) < 1000 ? fmt::format("{:.3g}", value) : TickLabel(y.kind, value);
      if (TextWidth(label, 10) <= bar_width) {
        canvas.Text(left + bar_width / 2, value < 0 ? end + 12 : end - 4, label,
                    {.size = 10, .color = &kSvgInk, .anchor = "middle"});
      }
    }
    if (slanted && g % every != 0) continue;
    if (slanted) {
      canvas.Text(middle + 4, canvas.bottom() + 14, FitText(plot.groups[g], 12, std::min(kMostName, 1.2 * middle - 8)),
                  {.color = &kSvgInk, .anchor = "end", .turn = -35});
    } else {
      canvas.Text(middle, canvas.bottom() + 18, plot.groups[g], {.color = &kSvgInk, .anchor = "middle"});
    }
  }
  canvas.Baseline("");
  return canvas.Finish();
}

}  // namespace hawser
