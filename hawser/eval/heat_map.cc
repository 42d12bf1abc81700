#include "hawser/eval/heat_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "hawser/base/error.h"
#include "hawser/eval/plot_canvas.h"
#include "hawser/eval/report.h"

namespace hawser {
namespace {

/// A step of the scale and the ink that is read on it.
struct HeatColor {
  SvgColor fill, ink;
};
constexpr std::array<HeatColor, 6> kScale = {{
    {{"ha", "#b84a00", "#c85200"}, {"ia", "#ffffff", "#ffffff"}},
    {{"hb", "#ea9a5e", "#8a4413"}, {"ib", "#1f2937", "#ffffff"}},
    {{"hc", "#f8dcc0", "#4a3526"}, {"ic", "#1f2937", "#f3ece5"}},
    {{"hd", "#d3e4f2", "#24405a"}, {"id", "#1f2937", "#e8f0f8"}},
    {{"he", "#7db2da", "#2a6ea6"}, {"ie", "#14202c", "#ffffff"}},
    {{"hf", "#00629b", "#56a8e8"}, {"if", "#ffffff", "#0b1620"}},
}};

const HeatColor& ColorOf(double share) {
  const double step = std::floor(std::clamp(share, 0.0, 1.0) * static_cast<double>(kScale.size()));
  return kScale[std::min(static_cast<size_t>(step), kScale.size() - 1)];
}

std::string DarkStyle() {
  std::string rules;
  for (const HeatColor& color : kScale) {
    for (const SvgColor& part : {color.fill, color.ink}) rules += fmt::format(".f-{}{{fill:{}}}", part.name, part.dark);
  }
  return "<style>@media (prefers-color-scheme:dark){" + rules + "}</style>\n";
}

}  // namespace

std::string RenderSvg(const HeatMap& map) {
  constexpr double kEdge = 16, kLabel = 11, kLegend = 150;
  PlotCanvas canvas(map.width, 80, map.title, map.subtitle);
  canvas.Add(DarkStyle());
  if (map.columns.empty() || map.rows.empty()) return canvas.FinishEmpty();
  double y = canvas.top();
  // What the colours say.
  const double step = kLegend / static_cast<double>(kScale.size());
  canvas.Text(kEdge, y + 11, "0 %", {.size = kLabel});
  for (size_t i = 0; i < kScale.size(); ++i) {
    canvas.Add(fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"13\"{}/>\n",
                           kEdge + 26 + step * static_cast<double>(i), y + 1, step, SvgFill(kScale[i].fill)));
  }
  canvas.Text(kEdge + 32 + kLegend, y + 11, "100 %", {.size = kLabel});
  y += 26;
  canvas.Text(kEdge, y + 11, FitText(map.y_label, 12, map.width - 2 * kEdge), {});
  y += 20;

  double names = 0, widest = 0;
  for (const std::string& row : map.rows) names = std::max(names, TextWidth(row, kLabel));
  for (const std::string& column : map.columns) widest = std::max(widest, TextWidth(column, kLabel));
  names = std::min(names, map.width * 0.35);
  const double left = kEdge + names + 8, right = map.width - kEdge;
  const double wide = (right - left) / static_cast<double>(map.columns.size());
  const double high = std::clamp(300.0 / static_cast<double>(map.rows.size()), 18.0, 34.0);
  const double gap = wide > 12 ? 2 : 0.5;
  for (size_t r = 0; r < map.rows.size(); ++r) {
    HAWSER_CHECK(map.cells.at(r).size() == map.columns.size());
    const double top = y + high * static_cast<double>(r);
    canvas.Text(left - 8, top + high / 2 + 4, FitText(map.rows[r], kLabel, names), {.size = kLabel, .anchor = "end"});
    for (size_t c = 0; c < map.columns.size(); ++c) {
      const HeatCell& cell = map.cells[r][c];
      const double x = left + wide * static_cast<double>(c);
      const HeatColor& color = ColorOf(cell.share);
      canvas.Add(fmt::format(
          "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" rx=\"2\"{}><title>{}</title></rect>\n", x,
          top, std::max(0.5, wide - gap), high - gap, SvgFill(cell.known ? color.fill : kSvgGrid),
          EscapeXml(
              fmt::format("{}, {}: {}", map.columns[c], map.rows[r], cell.known ? cell.tooltip : "not measured"))));
      if (!cell.known || TextWidth(cell.label, kLabel) > wide - gap - 4) continue;
      canvas.Text(x + (wide - gap) / 2, top + (high - gap) / 2 + 4, cell.label,
                  {.size = kLabel, .color = &color.ink, .anchor = "middle"});
    }
  }
  y += high * static_cast<double>(map.rows.size());
  const auto every = static_cast<size_t>(std::max(1.0, std::ceil((widest + 8) / wide)));  // column that is named
  for (size_t c = 0; c < map.columns.size(); c += every) {
    canvas.Text(left + wide * (static_cast<double>(c) + 0.5), y + 15, FitText(map.columns[c], kLabel, right - left),
                {.size = kLabel, .anchor = "middle"});
  }
  canvas.Text((left + right) / 2, y + 34, FitText(map.x_label, 12, right - left), {.anchor = "middle"});
  return canvas.FinishAt(y + 46);
}

std::string HtmlHeatMap(const HeatMap& map) {
  HeatMap narrow = map;
  narrow.width = 356;
  return fmt::format("<div class=\"wide\">{}</div><div class=\"narrow\">{}</div>", RenderSvg(map), RenderSvg(narrow));
}

std::string HeatMapCsv(const HeatMap& map) {
  std::string csv = fmt::format("{},{},share,label\n", CsvField(map.x_label), CsvField(map.y_label));
  for (size_t r = 0; r < map.rows.size(); ++r) {
    for (size_t c = 0; c < map.columns.size(); ++c) {
      const HeatCell& cell = map.cells[r][c];
      if (!cell.known) continue;
      csv += fmt::format("{},{},{},{}\n", CsvField(map.columns[c]), CsvField(map.rows[r]), cell.share,
                         CsvField(cell.label));
    }
  }
  return csv;
}

}  // namespace hawser
